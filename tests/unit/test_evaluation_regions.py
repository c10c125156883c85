from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.order.plan import Position
from datamodules.stream.batch import RegionBatch
from tap_platform.evaluation import baselines
from tap_platform.evaluation.answers import evaluation_mode
from tap_platform.evaluation.baselines import (
    TrainingStatistics,
    evaluate_baselines,
    measure_training_set,
)
from tap_platform.evaluation.interior import interior_cells
from tap_platform.evaluation.regions import evaluate_regions
from tap_platform.evaluation.scores import RegionScores
from tap_platform.models import RegionOutput, Tap, TapConfig

CELLS, FRAME, WIDTH = 8, 32, 3


def drawn(*pictures):
    """Bool masks from strings, rows parted by blanks."""
    return torch.tensor(
        [[[cell == "#" for cell in row] for row in picture.split()] for picture in pictures]
    )


def make_batch(masks, boxes, concepts, weights=None, image_index=None, frame=FRAME):
    count = len(masks)
    image_index = torch.zeros(count, dtype=torch.int64) if image_index is None else image_index
    images = int(image_index.max()) + 1
    return RegionBatch(
        pixels=torch.zeros(images, 3, frame, frame, dtype=torch.uint8),
        masks=masks,
        boxes=torch.tensor(boxes, dtype=torch.float32),
        image_index=image_index,
        priors=torch.zeros(count, WIDTH),
        has_mask=torch.ones(count, dtype=torch.bool),
        has_prior=torch.zeros(count, dtype=torch.bool),
        concepts=torch.tensor(concepts),
        weights=torch.ones(count) if weights is None else torch.tensor(weights),
        seeds=torch.arange(images),
        sizes=torch.full((images, 2), frame),
        keys=[str(image) for image in range(images)],
        phrases=[()] * count,
        position=Position(),
    )


def rectangles(*corners):
    masks = torch.zeros(len(corners), CELLS, CELLS, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


@pytest.fixture
def batch():
    """Two regions and a placeholder: 4 x 4 cells, 2 x 2 cells."""
    masks = rectangles((0, 0, 4, 4), (4, 4, 6, 6), (0, 0, 8, 8))
    boxes = [[0, 0, 16, 16], [16, 16, 24, 24], [0, 0, 32, 32]]
    return make_batch(masks, boxes, [1, -1, 0], weights=[1.0, 1.0, 0.0])


def test_the_inner_point_is_the_deepest_cell():
    masks = drawn(
        "........ .#####.. .#####.. .#####.. .#####.. .#####.. ........ ........",
        "######## ........ ........ ........ ........ ........ ........ ........",
        "........ ........ ........ ........ ........ ........ ........ .......#",
        "##...... ##...... ........ ........ ....###. ....###. ....###. ........",
    )
    # The third cell: a square's centre; a bar's middle (3.5: the first of two); one cell; the
    # thicker of two parts.
    assert interior_cells(masks).tolist() == [[3, 3], [3, 0], [7, 7], [5, 5]]


def test_the_inner_point_of_a_ring_lies_on_the_ring():
    ring = drawn("######## ######## ##....## ##....## ##....## ##....## ######## ########")
    x, y = interior_cells(ring)[0].tolist()
    assert ring[0, y, x]


def test_inner_points_agree_with_a_search_of_all_cells():
    generator = torch.Generator().manual_seed(0)
    noise = F.interpolate(torch.randn(20, 1, 4, 4, generator=generator), (12, 12), mode="bilinear")
    masks = noise[:, 0] > 0
    for mask, (x, y) in zip(masks, interior_cells(masks).tolist(), strict=True):
        padded = F.pad(mask, (1, 1, 1, 1))
        outside = torch.nonzero(~padded) - 1
        inside = torch.nonzero(mask)
        steps = (inside[:, None] - outside).abs().sum(-1).amin(1)
        at = (inside == torch.tensor([y, x])).all(1)
        assert steps[at].item() == steps.max()


class FakeTap(torch.nn.Module):
    """Answers every box with the box, and points with masks that it is given."""

    def __init__(self, point_masks, iou, embeddings):
        super().__init__()
        self.dropout = torch.nn.Dropout()
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.point_masks, self.iou, self.embeddings = point_masks, iou, embeddings
        self.modes = []

    def normalize(self, pixels):
        return pixels.float()

    def encode(self, pixels):
        return pixels

    def decode(self, image_embeddings, points, labels, image_index):
        self.modes.append((self.training, torch.is_grad_enabled()))
        if labels[0, 0] == 2:
            boxes = baselines.box_masks(points.flatten(1), CELLS, FRAME)
            masks = boxes[:, None].repeat(1, 4, 1, 1)
            masks[:, 1:] = False
        else:
            masks = self.point_masks
        tokens = torch.zeros(3, 4, 2)
        return RegionOutput(masks.float() - 0.5, self.iou, tokens, tokens, self.embeddings)


def test_scores_by_hand(batch):
    # By point: mask 0 is perfect but never read; mask 2 is picked; mask 3 is the best.
    truth = batch.masks
    point_masks = torch.stack([truth, truth & False, truth, truth], dim=1)
    point_masks[0, 2] = rectangles((0, 0, 4, 2))[0]  # half of the first region
    point_masks[1, 2] = rectangles((4, 4, 8, 8))[0]  # four times the second
    iou = torch.tensor([[9.0, 0.1, 0.5, 0.2]]).repeat(3, 1)
    embeddings = torch.eye(3)[[1, 0, 0]][:, None].repeat(1, 4, 1)
    model = FakeTap(point_masks, iou, embeddings)
    seen = []
    scores = evaluate_regions(model, [batch, batch], torch.eye(3), seen.append)
    assert scores == RegionScores(
        box_iou=1.0,
        point_iou=pytest.approx((0.5 + 0.25) / 2),
        point_oracle_iou=1.0,
        concept_top1=1.0,
        regions=4,
        named_regions=2,
    )
    assert seen == [1, 1]
    assert set(model.modes) == {(False, False)}
    assert model.training


def test_a_real_model_is_scored_and_left_as_it_was():
    config = TapConfig.preset("tiny", image_size=64, window_size=4, concept_dim=WIDTH)
    model = Tap(config)
    model.text_decoder.eval()
    before = {name: module.training for name, module in model.named_modules()}
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[:, 2:9, 3:8] = True
    batch = make_batch(
        masks, [[12, 8, 32, 36]] * 3, [0, 1, 2], image_index=torch.tensor([0, 1, 1]), frame=64
    )
    scores = evaluate_regions(model, [batch], torch.eye(WIDTH))
    assert 0 <= scores.point_iou <= scores.point_oracle_iou <= 1
    assert {name: module.training for name, module in model.named_modules()} == before
    model(
        model.normalize(batch.pixels),
        batch.boxes.view(3, 2, 2),
        torch.tensor([[2, 3]] * 3),
        batch.image_index,
    ).masks.sum().backward()


def test_evaluation_mode_is_left_after_an_error():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    with pytest.raises(TypeError), evaluation_mode(model):
        model()
    assert [module.training for module in model.modules()] == [True, True, False]


def test_the_commonest_phrase_is_counted_without_regard_to_capitals(batch):
    batch.phrases = [("A cat", "a dog"), ("a Cat",), ()]
    assert measure_training_set([batch, batch]).commonest_phrase == "a cat"


def test_what_listens_hears_each_batch_and_its_answers_in_evaluation_mode(batch):
    model = FakeTap(batch.masks[:, None].repeat(1, 4, 1, 1), torch.zeros(3, 4), torch.ones(3, 4, 3))
    heard = []

    def listen(given, answers):
        heard.append((given.keys, len(answers.by_box.masks), model.training))

    evaluate_regions(model, [batch, batch], torch.eye(3), listen=listen)
    assert heard == [(["0"], 3, False)] * 2
    assert len(model.modes) == 4


def test_regions_without_masks_have_no_scores(batch):
    batch.has_mask = torch.zeros(3, dtype=torch.bool)
    statistics = measure_training_set([batch])
    assert statistics == TrainingStatistics(mean_area=0, commonest_concept=1, commonest_phrase="")
    scores = evaluate_baselines([batch], statistics)
    assert scores == RegionScores(None, None, None, None, regions=0, named_regions=0)


def test_a_region_without_a_mask_is_not_scored(batch):
    batch.has_mask = torch.tensor([True, False, True])
    statistics = measure_training_set([batch])
    assert statistics.mean_area == 16 / 64
    assert evaluate_baselines([batch], statistics).regions == 1
    masks = batch.masks[:, None].repeat(1, 4, 1, 1)
    model = FakeTap(masks, torch.ones(3, 4), torch.eye(3)[:, None].repeat(1, 4, 1))
    assert evaluate_regions(model, [batch], torch.eye(3)).regions == 1


def test_training_statistics_by_hand(batch):
    more = make_batch(rectangles((0, 0, 2, 2), (0, 0, 4, 8)), [[0, 0, 8, 8]] * 2, [2, 2])
    statistics = measure_training_set([batch, more])
    assert statistics.mean_area == pytest.approx((16 + 4 + 4 + 32) / 4 / 64)
    assert statistics.commonest_concept == 2


def test_baselines_by_hand(batch):
    batch.boxes[0] = torch.tensor([0.0, 0.0, 32.0, 16.0])  # twice the first region
    scores = evaluate_baselines([batch], TrainingStatistics(1 / 64, 1, ""))
    assert scores.box_iou == pytest.approx((0.5 + 1) / 2)
    assert scores.point_iou == pytest.approx((1 / 16 + 1 / 4) / 2)  # a disc of one cell
    assert scores.concept_top1 == 1
    assert (scores.regions, scores.named_regions) == (2, 1)


def test_a_box_covers_the_cells_whose_centre_it_holds():
    masks = baselines.box_masks(torch.tensor([[3.0, 0.0, 10.0, 6.0]]), CELLS, FRAME)
    # Centres lie at 2, 6, 10: columns 1 alone, rows 0 alone (6 is the open end).
    assert torch.nonzero(masks[0]).tolist() == [[0, 1]]


def test_a_disc_has_about_the_area_asked_for():
    discs = baselines.disc_masks(torch.tensor([[32, 32], [0, 0]]), area=500, size=64)
    assert abs(int(discs[0].sum()) - 500) < 25
    assert abs(int(discs[1].sum()) - 125) < 25
    assert discs[0, 32, 32]
    assert np.array_equal(discs[0], discs[0].T)


def test_a_set_without_names_has_no_concept_score(batch):
    batch.concepts = torch.full((3,), -1)
    statistics = measure_training_set([batch])
    assert statistics.commonest_concept == -1
    assert evaluate_baselines([batch], statistics).concept_top1 is None
