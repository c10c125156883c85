from __future__ import annotations

import pytest
import torch

from tap_platform.config.objective import PromptConfig
from tap_platform.objectives.draws import region_seeds
from tap_platform.objectives.prompts import (
    BACKGROUND,
    BOX_LEFT_TOP,
    BOX_RIGHT_BOTTOM,
    FOREGROUND,
    PAD,
    box_prompts,
    click_prompts,
    first_prompts,
    inner_prompts,
    refine_prompts,
)

SIZE = 8
FRAME = 32


def blank(count=1):
    return torch.zeros(count, SIZE, SIZE, dtype=torch.bool)


def cells(points):
    """The mask cells (x, y) that points of the frame stand for."""
    return ((points + 0.5) * SIZE / FRAME - 0.5).round().long()


def values_at(masks, points):
    at = cells(points)
    return masks[torch.arange(len(masks))[:, None], at[..., 1], at[..., 0]]


def one_mask(count, mask, **settings):
    """First and second stage for many regions that share a mask; nothing is predicted."""
    return stages(mask.expand(count, -1, -1), blank().expand(count, -1, -1), **settings)


def stages(masks, predicted, image_index=None, image_seeds=None, **settings):
    config = PromptConfig(**settings)
    count = len(masks)
    image_index = torch.arange(count) if image_index is None else image_index
    image_seeds = torch.arange(count) if image_seeds is None else image_seeds
    seeds = region_seeds(image_seeds, image_index)
    boxes = torch.tensor([[4.0, 8.0, 24.0, 18.0]]).expand(count, 4)
    first = first_prompts(boxes, masks, seeds, config, FRAME)
    second = refine_prompts(first, predicted, masks, seeds, image_seeds, image_index, config, FRAME)
    return first, second


@pytest.fixture
def blob():
    mask = blank()[0]
    mask[2:5, 3:7] = True
    mask[6, 0] = True
    return mask


def test_plain_prompts_have_the_released_form():
    box = box_prompts(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert box.points.tolist() == [[[1, 2], [3, 4]]]
    assert box.labels.tolist() == [[BOX_LEFT_TOP, BOX_RIGHT_BOTTOM]]
    click = click_prompts(torch.tensor([[0, 3]]), ratio=4)
    assert click.points.tolist() == [[[1.5, 13.5], [-0.5, -0.5]]]
    assert click.labels.tolist() == [[FOREGROUND, PAD]]
    assert (box.is_box.tolist(), click.is_box.tolist()) == ([True], [False])


def test_half_of_the_first_prompts_are_boxes_that_only_grow(blob):
    first, _ = one_mask(4000, blob)
    assert first.points.shape == (4000, 2, 2)
    assert abs(first.is_box.float().mean() - 0.5) < 0.03
    grown = first.points[first.is_box].flatten(1) - torch.tensor([4.0, 8.0, 24.0, 18.0])
    assert (grown[:, :2] <= 0).all()
    assert (grown[:, 2:] >= 0).all()
    assert abs((grown == 0).float().mean() - 0.5) < 0.03  # inward noise is dropped
    # Half a normal distribution of deviation s has mean s sqrt(2 / pi) / 2.
    expected = torch.tensor([20.0, 10.0, 20.0, 10.0]) * 0.1 * 0.3989
    torch.testing.assert_close(grown.abs().mean(0), expected, rtol=0.08, atol=0)
    assert (first.labels[first.is_box] == torch.tensor([BOX_LEFT_TOP, BOX_RIGHT_BOTTOM])).all()


def test_box_noise_is_limited(blob):
    first, _ = one_mask(500, blob, box_probability=1, box_jitter=1, box_jitter_limit=3)
    grown = first.points.flatten(1) - torch.tensor([4.0, 8.0, 24.0, 18.0])
    assert grown.abs().max() == 3


def test_clicks_are_uniform_inside_the_mask(blob):
    first, _ = one_mask(13000, blob, box_probability=0)
    assert (first.labels == torch.tensor([FOREGROUND, PAD])).all()
    assert (first.points[:, 1] == -0.5).all()
    clicked = cells(first.points[:, 0])
    counts = torch.zeros(SIZE, SIZE).index_put_(
        (clicked[:, 1], clicked[:, 0]), torch.ones(len(clicked)), accumulate=True
    )
    assert torch.equal(counts > 0, blob)
    chi_square = ((counts[blob] - 1000).square() / 1000).sum()
    assert chi_square < 33  # 12 degrees of freedom, p = 0.001


def test_one_to_eight_points_are_added(blob):
    _, second = one_mask(8000, blob)
    assert second.points.shape == (8000, 10, 2)
    drawn = second.labels[:, 2:] != PAD
    counts = torch.bincount(drawn.sum(1), minlength=9)
    assert counts[0] == 0
    assert ((counts[1:] - 1000).square() / 1000).sum() < 25  # 7 degrees of freedom
    assert torch.equal(drawn, drawn.sort(1, descending=True).values)  # pads come last
    assert (second.points[:, 2:][~drawn] == -0.5).all()


def test_added_points_do_not_repeat_and_are_uniform(blob):
    _, second = one_mask(4000, blob, interactive_probability=0)
    at = cells(second.points[:, 2:])
    places = at[..., 1] * SIZE + at[..., 0]
    drawn = second.labels[:, 2:] != PAD
    unique = torch.where(drawn, places, -1 - torch.arange(8))
    assert all(len(row.unique()) == 8 for row in unique)
    counts = torch.bincount(places[drawn], minlength=SIZE * SIZE).view(SIZE, SIZE).float()
    assert torch.equal(counts > 0, blob)
    expected = drawn.sum() / 13
    assert ((counts[blob] - expected).square() / expected).sum() < 33


def test_interactive_points_lie_on_errors_with_their_true_label(blob):
    predicted = blank()[0]
    predicted[2:7, 5:] = True
    masks, guesses = blob.expand(2000, -1, -1), predicted.expand(2000, -1, -1)
    _, second = stages(masks, guesses, interactive_probability=1)
    drawn = second.labels[:, 2:] != PAD
    assert values_at(masks ^ guesses, second.points[:, 2:])[drawn].all()
    assert torch.equal(
        values_at(masks, second.points[:, 2:])[drawn], second.labels[:, 2:][drawn] == FOREGROUND
    )
    assert (second.labels[:, 2:] == BACKGROUND).any()


def test_half_of_the_images_are_interactive(blob):
    complement = ~blob
    _, second = stages(blob.expand(4000, -1, -1), complement.expand(4000, -1, -1))
    on_background = (second.labels[:, 2:] == BACKGROUND).any(1).float().mean()
    # 51 of the 64 wrong cells are background: few interactive draws show none.
    assert 0.44 < on_background < 0.5


def test_images_share_the_count_and_the_coin(blob):
    image_index = torch.arange(200).repeat_interleave(5)
    masks = blob.expand(1000, -1, -1)
    _, second = stages(masks, ~masks, image_index, torch.arange(200), interactive_probability=0.5)
    drawn = (second.labels[:, 2:] != PAD).sum(1).view(200, 5)
    assert torch.equal(drawn, drawn[:, :1].expand(-1, 5))
    assert len(second.points[:, 2].view(200, 5, 2)[0].unique(dim=0)) > 1


def test_a_perfect_prediction_falls_back_on_the_mask(blob):
    masks = blob.expand(300, -1, -1)
    _, second = stages(masks, masks, interactive_probability=1)
    drawn = second.labels[:, 2:] != PAD
    assert drawn.any(1).all()
    assert (second.labels[:, 2:][drawn] == FOREGROUND).all()
    assert values_at(masks, second.points[:, 2:])[drawn].all()


def test_an_empty_mask_gives_pads_unless_the_prediction_errs():
    first, second = one_mask(50, blank()[0], box_probability=0)
    assert (first.labels == PAD).all()
    assert (second.labels == PAD).all()
    assert (second.points == -0.5).all()
    nothing, everything = blank(50), ~blank(50)
    _, second = stages(nothing, everything, interactive_probability=1, box_probability=0)
    drawn = second.labels[:, 2:] != PAD
    assert (second.labels[:, 2:][drawn] == BACKGROUND).all()
    assert drawn.any(1).all()


def test_a_one_cell_mask_repeats_its_cell():
    mask = blank()[0]
    mask[7, 2] = True
    first, second = one_mask(200, mask, box_probability=0)
    assert (cells(first.points[:, 0]) == torch.tensor([2, 7])).all()
    drawn = second.labels[:, 2:] != PAD
    assert drawn.sum(1).max() == 8
    assert (cells(second.points[:, 2:])[drawn] == torch.tensor([2, 7])).all()


def test_as_many_cells_as_points_are_all_taken():
    mask = blank()[0]
    mask[0, :8] = True
    _, second = one_mask(300, mask)
    drawn = (second.labels[:, 2:] != PAD).sum(1)
    full = cells(second.points[drawn == 8][:, 2:])[..., 0].sort(1).values
    assert len(full) > 10
    assert (full == torch.arange(8)).all()


def test_a_full_mask_reaches_its_last_cell():
    first, _ = one_mask(3000, ~blank()[0], box_probability=0)
    clicked = cells(first.points[:, 0])
    assert len(clicked.unique(dim=0)) == SIZE * SIZE


def test_one_point_in_all_adds_none(blob):
    first, second = one_mask(4, blob, max_points=1)
    assert torch.equal(first.points, second.points)


def test_prompts_do_not_depend_on_the_rest_of_the_batch():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(9, SIZE, SIZE, generator=generator) > 0.5
    predicted = torch.rand(9, SIZE, SIZE, generator=generator) > 0.5
    image_index = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    image_seeds = torch.tensor([101, 202, 303])
    whole = stages(masks, predicted, image_index, image_seeds)
    for image in range(3):
        own = image_index == image
        alone = stages(
            masks[own], predicted[own], image_index[own] - image, image_seeds[image, None]
        )
        for together, apart in zip(whole, alone, strict=True):
            for values, others in zip(together, apart, strict=True):
                assert torch.equal(values[own], others)


def inside(masks, seeds=None, **settings):
    seeds = torch.arange(len(masks)) if seeds is None else seeds
    boxes = torch.tensor([[4.0, 8.0, 24.0, 18.0]]).expand(len(masks), 4)
    return inner_prompts(masks, boxes, seeds, PromptConfig(**settings), FRAME)


def test_inner_points_are_one_to_nine_and_uniform_inside_the_mask(blob):
    masks = blob.expand(9000, -1, -1)
    prompts = inside(masks)
    assert prompts.points.shape == (9000, 10, 2)
    assert not prompts.is_box.any()
    drawn = prompts.labels != PAD
    assert (prompts.labels[drawn] == FOREGROUND).all()
    assert (prompts.points[~drawn] == -0.5).all()
    assert torch.equal(drawn, drawn.sort(1, descending=True).values)  # pads come last
    counts = torch.bincount(drawn.sum(1), minlength=11)
    assert (counts[0], counts[10]) == (0, 0)
    assert ((counts[1:10] - 1000).square() / 1000).sum() < 27  # 8 degrees of freedom
    at = cells(prompts.points)
    places = at[..., 1] * SIZE + at[..., 0]
    assert all(len(row[own].unique()) == own.sum() for row, own in zip(places, drawn, strict=True))
    hits = torch.bincount(places[drawn], minlength=SIZE * SIZE).view(SIZE, SIZE).float()
    assert torch.equal(hits > 0, blob)
    expected = drawn.sum() / 13
    assert ((hits[blob] - expected).square() / expected).sum() < 33


def test_a_region_whose_mask_is_empty_keeps_its_box(blob):
    masks = torch.stack([blob, blank()[0], blob])
    prompts = inside(masks)
    assert prompts.is_box.tolist() == [False, True, False]
    assert prompts.labels[1].tolist() == [BOX_LEFT_TOP, BOX_RIGHT_BOTTOM] + [PAD] * 8
    assert prompts.points[1, :2].tolist() == [[4, 8], [24, 18]]
    assert (prompts.points[1, 2:] == -0.5).all()


def test_inner_points_of_a_region_do_not_depend_on_the_others(blob):
    masks = torch.stack([blob, ~blob, blob, blank()[0]])
    seeds = torch.tensor([5, 99, 5, 7])
    together = inside(masks, seeds)
    assert torch.equal(together.points[0], together.points[2])
    for row in range(4):
        alone = inside(masks[row, None], seeds[row, None])
        for values, own in zip(together, alone, strict=True):
            assert torch.equal(values[row], own[0])


def test_one_inner_point_comes_with_a_pad(blob):
    prompts = inside(torch.stack([blob, blank()[0]]), max_points=1)
    assert prompts.labels.tolist() == [[FOREGROUND, PAD], [BOX_LEFT_TOP, BOX_RIGHT_BOTTOM]]
