from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tap_platform.config.objective import ObjectiveConfig
from tap_platform.objectives import pretraining
from tap_platform.objectives.pretraining import StageLosses, stage_losses, term_means, total

REGIONS, SIZE, WIDTH, CONCEPTS = 5, 8, 6, 7
BOXES = torch.tensor([True, False, True, False, False])


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def answers():
    return SimpleNamespace(
        masks=random(REGIONS, 4, SIZE, SIZE, seed=1).requires_grad_(),
        iou=random(REGIONS, 4, seed=2).requires_grad_(),
        concept_embeddings=random(REGIONS, 4, WIDTH, seed=3).requires_grad_(),
    )


@pytest.fixture
def regions():
    return SimpleNamespace(
        masks=random(REGIONS, SIZE, SIZE, seed=4) > 0,
        boxes=torch.tensor([[4.0, 4.0, 20.0, 24.0]]).expand(REGIONS, 4),
        image_index=torch.tensor([0, 0, 1, 1, 1]),
        priors=random(REGIONS, WIDTH, seed=5),
        has_mask=torch.ones(REGIONS, dtype=torch.bool),
        has_prior=torch.tensor([True, True, True, False, True]),
        seeds=torch.tensor([7, 8]),
    )


@pytest.fixture
def vocabulary():
    return F.normalize(random(CONCEPTS, WIDTH, seed=6), dim=1)


def trained(gradient):
    """Which candidates [M, 4] a gradient [M, 4, ...] reaches."""
    return gradient.flatten(2).abs().sum(-1) > 0 if gradient.ndim > 2 else gradient != 0


def one_hot(index):
    return F.one_hot(index, 4).bool()


def test_only_the_routed_mask_and_embedding_are_trained(answers, regions, vocabulary):
    config = ObjectiveConfig()
    losses = stage_losses(answers, regions, BOXES, vocabulary, config)
    assert (losses.routed == 0).tolist() == BOXES.tolist()
    points = answers.iou[~BOXES, 1:].argmax(1) + 1
    assert torch.equal(losses.routed[~BOXES], points)
    total([losses], torch.ones(REGIONS), torch.tensor(5.0), config).backward()
    assert torch.equal(trained(answers.masks.grad), one_hot(losses.routed))
    concepts = one_hot(losses.routed) & regions.has_prior[:, None]
    assert torch.equal(trained(answers.concept_embeddings.grad), concepts)
    assert trained(answers.iou.grad).all()


def test_iou_supervision_may_be_of_the_routed_score_only(answers, regions, vocabulary):
    config = ObjectiveConfig(iou_supervision="routed")
    losses = stage_losses(answers, regions, BOXES, vocabulary, config)
    losses.iou.sum().backward()
    assert torch.equal(trained(answers.iou.grad), one_hot(losses.routed))
    rows = torch.arange(REGIONS)
    expected = (answers.iou[rows, losses.routed] - losses.actual_iou).square()
    torch.testing.assert_close(losses.iou, expected)
    everything = stage_losses(answers, regions, BOXES, vocabulary, ObjectiveConfig())
    torch.testing.assert_close(everything.actual_iou, losses.actual_iou)


def test_lowest_loss_routes_a_point_to_the_mask_that_fits_best(answers, regions, vocabulary):
    fitting = torch.tensor([1, 2, 3, 3, 1])
    masks = answers.masks.detach().clone()
    masks[torch.arange(REGIONS), fitting] = 9.0 * (2.0 * regions.masks - 1)
    answers.masks = masks
    config = ObjectiveConfig(routing="lowest_loss")
    losses = stage_losses(answers, regions, BOXES, vocabulary, config)
    assert losses.routed.tolist() == [0, 2, 0, 3, 1]
    assert losses.actual_iou[~BOXES].tolist() == [1, 1, 1]


def test_a_region_without_a_prior_has_no_concept_loss(answers, regions, vocabulary):
    regions.priors[3] = 0
    for kind in ("kl", "feature"):
        config = ObjectiveConfig(concept_loss=kind)
        concept = stage_losses(answers, regions, BOXES, vocabulary, config).concept
        assert concept[3] == 0
        assert (concept[regions.has_prior] > 0).all()


def test_a_region_without_a_mask_has_a_concept_loss_only(answers, regions, vocabulary):
    regions.has_mask[1] = False
    for routing in ("predicted_iou", "lowest_loss"):
        for supervision in ("all", "routed"):
            config = ObjectiveConfig(routing=routing, iou_supervision=supervision)
            losses = stage_losses(answers, regions, BOXES, vocabulary, config)
            for values in (losses.focal, losses.dice, losses.iou):
                assert (values > 0).tolist() == regions.has_mask.tolist()
            assert losses.concept[1] > 0
            total([losses], torch.ones(REGIONS), torch.tensor(5.0), config).backward()
    assert not answers.masks.grad[1].any()
    assert not answers.iou.grad[1].any()
    assert answers.concept_embeddings.grad[1].any()


def plain_losses(scale=1.0):
    values = scale * torch.tensor([1.0, 2.0])
    return StageLosses(
        values, 10 * values, 100 * values, 1000 * values, values, torch.zeros(2).long()
    )


def test_total_by_hand():
    stages = [plain_losses(), plain_losses(3.0)]
    weights, denominator = torch.tensor([1.0, 0.5]), torch.tensor(4.0)
    # The weighted values sum to 1 + 0.5 * 2 = 2 in the first stage, 6 in the second.
    config = ObjectiveConfig(concept_weight=0.5, segmentation_weight=2)
    each = 2 * (20 + 10 + 100) + 0.5 * 1000
    mean = total(stages, weights, denominator, config)
    assert mean.item() == pytest.approx(each * (2 + 6) / 2 / 4)
    summed = total(stages, weights, denominator, config.replaced(stage_reduction="sum"))
    assert summed.item() == pytest.approx(each * (2 + 6) / 4)


def test_no_region_anywhere_gives_a_zero_loss_and_zero_gradients(answers, regions, vocabulary):
    config = ObjectiveConfig()
    losses = stage_losses(answers, regions, BOXES, vocabulary, config)
    loss = total([losses], torch.zeros(REGIONS), torch.tensor(0.0), config)
    loss.backward()
    assert loss == 0
    assert all(
        (values.grad == 0).all()
        for values in (answers.masks, answers.iou, answers.concept_embeddings)
    )


def test_shares_of_workers_add_up_to_the_whole():
    losses, config = plain_losses(), ObjectiveConfig()
    whole = total([losses], torch.ones(2), torch.tensor(2.0), config)
    shares = [
        total(
            [StageLosses(*(v[i : i + 1] for v in losses))], torch.ones(1), torch.tensor(1.0), config
        )
        for i in range(2)
    ]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)


def test_term_means_are_named_and_weighted():
    means = term_means(plain_losses(), torch.tensor([1.0, 0.0]), torch.tensor(1.0))
    assert {name: value.item() for name, value in means.items()} == {
        "focal": 1,
        "dice": 10,
        "iou": 100,
        "concept": 1000,
        "actual_iou": 1,
    }


def test_the_second_stage_points_at_the_errors_of_the_first(answers, regions, vocabulary):
    seen = []

    def decode(prompts):
        seen.append(prompts)
        return answers

    config = ObjectiveConfig(prompts={"interactive_probability": 1})
    first, second = pretraining.two_stages(decode, regions, vocabulary, config, frame=32)
    assert first.answers is second.answers is answers
    assert [prompts.points.shape[1] for prompts in seen] == [2, 10]
    assert torch.equal(seen[0].is_box, seen[1].is_box)
    wrong = (answers.masks[torch.arange(REGIONS), first.losses.routed] > 0) ^ regions.masks
    added, labels = seen[1].points[:, 2:], seen[1].labels[:, 2:]
    at = ((added + 0.5) * SIZE / 32 - 0.5).round().long()
    hits = wrong[torch.arange(REGIONS)[:, None], at[..., 1], at[..., 0]]
    assert hits[labels != 4].all()
    assert second.losses.focal.shape == (REGIONS,)
