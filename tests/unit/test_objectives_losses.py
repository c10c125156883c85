from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch.nn import functional as F

from tap_platform.objectives import concepts, segmentation
from tap_platform.objectives.routing import route, select


@pytest.fixture
def logits():
    return 4 * torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets():
    return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.6


def test_focal_loss_by_hand():
    # Two pixels, probabilities 3/4 (true) and 1/4 (false): p_t is 3/4 for both.
    logits = torch.tensor([[[log(3), -log(3)]]])
    loss = segmentation.focal_loss(logits, torch.tensor([[[True, False]]]), alpha=0.25, gamma=2)
    cross_entropy = (1 - 0.75) ** 2 * -log(0.75)
    assert loss.item() == pytest.approx((0.25 + 0.75) * cross_entropy / 2)


def test_focal_loss_without_focus_is_cross_entropy(logits, targets):
    loss = segmentation.focal_loss(logits[:, 0], targets, alpha=0.5, gamma=0)
    expected = F.binary_cross_entropy_with_logits(
        logits[:, 0], targets.float(), reduction="none"
    ).mean((1, 2))
    torch.testing.assert_close(loss, expected / 2)


def test_focal_loss_stays_finite_at_extreme_logits():
    logits = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    segmentation.focal_loss(logits, torch.tensor([[[False, True]]]), 0.25, 2.0).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().min() > 0


def test_dice_loss_by_hand():
    # p = (1/2, 1/2), t = (1, 0): 1 - (2 * 1/2 + 1) / (1 + 1 + 1).
    loss = segmentation.dice_loss(torch.zeros(1, 1, 2), torch.tensor([[[True, False]]]), epsilon=1)
    assert loss.item() == pytest.approx(1 / 3)


def test_actual_iou_by_hand():
    logits = torch.tensor([[[1.0, 2.0], [-1.0, 0.0]]])
    targets = torch.tensor([[[True, False], [True, False]]])
    assert segmentation.actual_iou(logits, targets).item() == pytest.approx(1 / 3)


def test_actual_iou_of_two_empty_masks_is_zero():
    iou = segmentation.actual_iou(-torch.ones(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))
    assert iou.item() == 0


def test_losses_serve_candidates_like_single_masks(logits, targets):
    for loss in (
        lambda x: segmentation.focal_loss(x, targets, 0.25, 2.0),
        lambda x: segmentation.dice_loss(x, targets, 1.0),
        lambda x: segmentation.actual_iou(x, targets),
    ):
        apart = torch.stack([loss(logits[:, candidate]) for candidate in range(4)], dim=1)
        torch.testing.assert_close(loss(logits), apart)


def test_losses_are_float32_for_half_precision_logits(logits, targets):
    half = logits[:, 0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (
            segmentation.focal_loss(half, targets, 0.25, 2.0),
            segmentation.dice_loss(half, targets, 1.0),
            segmentation.iou_loss(half[:, 0, 0], torch.zeros(3)),
        ):
            assert loss.dtype == torch.float32


def test_gradients_match_finite_differences(targets):
    # float32 inside, so the differences are coarse.
    x = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(2))
    t = targets[:2, :4, :4]
    for loss in (
        lambda x: segmentation.focal_loss(x, t, 0.25, 2.0).sum(),
        lambda x: segmentation.dice_loss(x, t, 1.0).sum(),
    ):
        gradient = torch.func.grad(loss)(x)
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        difference = (loss(x + 1e-2 * direction) - loss(x - 1e-2 * direction)) / 2e-2
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-3, atol=1e-4)


def two_concepts(cosine):
    return torch.tensor([[cosine, (1 - cosine**2) ** 0.5]])


def test_concept_probabilities_are_a_softmax_of_cosines():
    logs = concepts.concept_log_probabilities(5 * two_concepts(0.6), torch.eye(2), temperature=0.1)
    assert logs.exp()[0, 0].item() == pytest.approx(1 / (1 + exp(2)))


@pytest.mark.parametrize("direction", ["target_to_prediction", "prediction_to_target"])
def test_kl_by_hand(direction):
    prediction, target = two_concepts(0.6), two_concepts(1.0)
    loss = concepts.concept_kl_loss(prediction, target, torch.eye(2), 1.0, direction)
    q = 1 / (1 + exp(0.2))
    p = 1 / (1 + exp(-1.0))
    if direction == "prediction_to_target":
        p, q = q, p
    assert loss.item() == pytest.approx(p * log(p / q) + (1 - p) * log((1 - p) / (1 - q)))


def test_concepts_keep_full_precision_under_autocast():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(5, 16, generator=generator)
    vocabulary = F.normalize(torch.randn(7, 16, generator=generator), dim=1)
    exact = concepts.concept_log_probabilities(embeddings, vocabulary, 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        cast = concepts.concept_log_probabilities(embeddings, vocabulary, 0.01)
    assert torch.equal(exact, cast)


def test_no_gradient_reaches_the_teacher():
    prediction, target = (two_concepts(c).requires_grad_() for c in (0.6, 0.8))
    loss = concepts.concept_kl_loss(prediction, target, torch.eye(2), 1.0, "target_to_prediction")
    (loss + concepts.feature_loss(prediction, target)).sum().backward()
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None


def test_feature_loss_is_the_cosine_distance():
    loss = concepts.feature_loss(3 * two_concepts(0.6), 2 * two_concepts(1.0))
    assert loss.item() == pytest.approx(0.4)


def test_boxes_take_mask_zero_and_points_the_best_of_the_others():
    scores = torch.tensor([[9.0, 1.0, 3.0, 2.0], [9.0, 1.0, 3.0, 2.0], [0.0, 5.0, 3.0, 2.0]])
    assert route(torch.tensor([True, False, False]), scores).tolist() == [0, 2, 1]


def test_select_takes_the_routed_values_and_trains_only_them():
    values = torch.randn(3, 4, 2, requires_grad=True)
    index = torch.tensor([0, 2, 3])
    chosen = select(values, index)
    assert torch.equal(chosen, values[torch.arange(3), index])
    chosen.sum().backward()
    assert values.grad.sum(-1).nonzero().tolist() == [[0, 0], [1, 2], [2, 3]]
