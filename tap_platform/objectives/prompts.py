"""Two-stage prompt sampling (TAP paper, section 3.3, and the authors' released sampler).

First each region is cued by a box or by one click inside it. Then points are added: where the first
prediction is wrong, or, for a share of the images, anywhere in the true region. Every draw is a
function of its region's or image's seed alone (see `draws`).

Where the model's own masks are to be described, points are drawn inside them instead, as the
released models of version 1.1 were fine-tuned.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tap_platform.config.objective import PromptConfig
from tap_platform.objectives import draws
from tap_platform.objectives.segmentation import mask_area

BACKGROUND, FOREGROUND, BOX_LEFT_TOP, BOX_RIGHT_BOTTOM, PAD = range(5)
"""Labels of a prompt's points."""

PAD_COORDINATE = -0.5
"""Where padding points lie; models ignore it."""

_BOX_COIN, _BOX_JITTER, _CLICK, _ADDED_POINTS, _INTERACTIVE_COIN, _ADDED_COUNT = range(6)
_INNER_POINTS, _INNER_COUNT = 6, 7


class Prompts(NamedTuple):
    """One prompt for each region: a box, or clicks, or both, padded to P points."""

    points: Tensor
    """float32 [M, P, 2]: (x, y) in pixels of the input frame."""
    labels: Tensor
    """int64 [M, P]: 0 background, 1 foreground, 2 left-top and 3 right-bottom of a box, 4 pad."""
    is_box: Tensor
    """bool [M]: whether the prompt began as a box."""


def box_prompts(boxes: Tensor) -> Prompts:
    """Prompts of one box each, from float32 [M, 4] xyxy in pixels of the input frame."""
    labels = torch.tensor([BOX_LEFT_TOP, BOX_RIGHT_BOTTOM], device=boxes.device)
    is_box = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    return Prompts(boxes.view(-1, 2, 2), labels.expand(len(boxes), 2), is_box)


def click_prompts(cells: Tensor, ratio: float) -> Prompts:
    """Prompts of one foreground click each, beside one pad as the released model expects.

    Args:
        cells: int64 [M, 2], (x, y) on the mask grid.
        ratio: pixels of the input frame for one cell of the mask grid.
    """
    clicks = grid_to_frame(cells, ratio)
    points = torch.stack([clicks, torch.full_like(clicks, PAD_COORDINATE)], dim=1)
    labels = torch.tensor([FOREGROUND, PAD], device=cells.device)
    is_box = torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
    return Prompts(points, labels.expand(len(cells), 2), is_box)


def grid_to_frame(cells: Tensor, ratio: float) -> Tensor:
    """Centres of mask cells, in pixels of the input frame whose first pixel's centre is 0."""
    return (cells.float() + 0.5) * ratio - 0.5


def first_prompts(
    boxes: Tensor, masks: Tensor, seeds: Tensor, config: PromptConfig, frame: int
) -> Prompts:
    """Draw each region's first prompt: its box, jittered outward, or one click inside its mask.

    Args:
        boxes: float32 [M, 4], xyxy in pixels of the input frame.
        masks: bool [M, R, R].
        seeds: int64 [M], one for each region.
        config: shares and sizes.
        frame: side of the input frame, in pixels.

    Returns:
        Prompts of two points. A click of an empty mask is padding.
    """
    box = box_prompts(_jittered(boxes, seeds, config))
    row_ends = _row_ends(masks)
    area = row_ends[:, -1]
    ranks = (draws.uniform(seeds, 1, _CLICK) * area.unsqueeze(1)).long()
    click = click_prompts(_set_cells(masks, row_ends, ranks).squeeze(1), frame / masks.shape[-1])
    is_box = draws.uniform(seeds, 1, _BOX_COIN).squeeze(1) < config.box_probability
    points = torch.where(is_box[:, None, None], box.points, click.points)
    labels = torch.where(is_box[:, None], box.labels, click.labels)
    return _padded(points, labels, (~is_box & (area == 0)).unsqueeze(1), is_box)


def refine_prompts(
    prompts: Prompts,
    predicted: Tensor,
    masks: Tensor,
    seeds: Tensor,
    image_seeds: Tensor,
    image_index: Tensor,
    config: PromptConfig,
    frame: int,
) -> Prompts:
    """Add 1 to `max_points - 1` points to each prompt, drawn uniformly, without repeats.

    An interactive image's points lie where the prediction is wrong; a point is foreground where the
    true mask is. Other images' points, and those of a region without any error, lie in the true
    mask. Only a region with fewer cells to choose from than points repeats them.

    Args:
        prompts: the first stage's, of two points.
        predicted: bool [M, R, R], the masks that answered the first stage.
        masks: bool [M, R, R], the true masks.
        seeds: int64 [M], one for each region.
        image_seeds: int64 [B]; the number of points, and whether they are interactive, are drawn
            once an image.
        image_index: int64 [M], the image of each region.
        config: shares and sizes.
        frame: side of the input frame, in pixels.

    Returns:
        Prompts of `1 + max_points` points, those not drawn being padding.
    """
    most = config.max_points - 1
    interactive = draws.uniform(image_seeds, 1, _INTERACTIVE_COIN) < config.interactive_probability
    count = 1 + (draws.uniform(image_seeds, 1, _ADDED_COUNT) * most).long()
    source = _where_to_point(predicted, masks, interactive[image_index, 0])
    uniform = draws.uniform(seeds, most, _ADDED_POINTS)
    cells, unused = _draw_cells(source, uniform, count[image_index])
    labels = masks[_rows_of(masks), cells[..., 1], cells[..., 0]].long()
    added = _padded(grid_to_frame(cells, frame / masks.shape[-1]), labels, unused, prompts.is_box)
    return Prompts(
        torch.cat([prompts.points, added.points], dim=1),
        torch.cat([prompts.labels, added.labels], dim=1),
        prompts.is_box,
    )


def inner_prompts(
    masks: Tensor, boxes: Tensor, seeds: Tensor, config: PromptConfig, frame: int
) -> Prompts:
    """Cue each region by 1 to `max_points` points, drawn uniformly inside a mask, without repeats.

    Args:
        masks: bool [M, R, R], such as the model predicts for the boxes.
        boxes: float32 [M, 4], xyxy in pixels of the input frame.
        seeds: int64 [M], one for each region.
        config: `max_points` is read.
        frame: side of the input frame, in pixels.

    Returns:
        Prompts of `1 + max_points` points, padded; where a mask is empty, the box.
    """
    most = config.max_points
    count = 1 + (draws.uniform(seeds, 1, _INNER_COUNT) * most).long()
    cells, unused = _draw_cells(masks, draws.uniform(seeds, most, _INNER_POINTS), count)
    clicks = grid_to_frame(cells, frame / masks.shape[-1])
    click_labels = torch.full_like(unused, FOREGROUND, dtype=torch.int64).masked_fill(unused, PAD)
    box, is_box = box_prompts(boxes), unused.all(1)
    points = torch.where(
        is_box[:, None, None],
        F.pad(box.points, (0, 0, 0, most - 1)),
        F.pad(clicks, (0, 0, 0, 1)),
    )
    labels = torch.where(
        is_box[:, None],
        F.pad(box.labels, (0, most - 1), value=PAD),
        F.pad(click_labels, (0, 1), value=PAD),
    )
    return _padded(points, labels, labels == PAD, is_box)


def _jittered(boxes: Tensor, seeds: Tensor, config: PromptConfig) -> Tensor:
    """Boxes [M, 4] with noise on every side, of which only the outward half is kept."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = draws.normal(seeds, 4, _BOX_JITTER) * config.box_jitter * sides
    noise = noise.clamp(-config.box_jitter_limit, config.box_jitter_limit)
    return boxes + torch.cat([noise[:, :2].clamp(max=0), noise[:, 2:].clamp(min=0)], dim=1)


def _where_to_point(predicted: Tensor, masks: Tensor, interactive: Tensor) -> Tensor:
    """The cells to draw from, bool [M, R, R]: the error if it is wanted, or else the true mask."""
    has_error = mask_area(predicted ^ masks) > 0
    return masks ^ (predicted & (interactive & has_error)[:, None, None])


def _draw_cells(masks: Tensor, uniform: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Draw cells of masks, without repeats.

    Args:
        masks: bool [M, R, R].
        uniform: [M, K] numbers in [0, 1).
        count: int64 [M, 1], how many cells each mask gives, at most K.

    Returns:
        int64 [M, K, 2], (x, y) on the mask grid, and bool [M, K], which of them are not to be used:
        those beyond the count, and all of an empty mask.
    """
    row_ends = _row_ends(masks)
    area = row_ends[:, -1:]
    cells = _set_cells(masks, row_ends, _distinct_ranks(uniform, area, count))
    numbers = torch.arange(uniform.shape[1], device=masks.device)
    return cells, (numbers >= count) | (area == 0)


def _distinct_ranks(uniform: Tensor, population: Tensor, count: Tensor) -> Tensor:
    """Draw distinct ranks below each population, by Floyd's algorithm (Bentley and Floyd 1987).

    Draw number i takes one of the first `population - count + i + 1` ranks, or the last of these if
    its choice is taken: each set of `count` ranks is equally likely, with one number a draw.

    Args:
        uniform: [M, K] numbers in [0, 1).
        population: int64 [M, 1]; one smaller than the count gives ranks that repeat.
        count: int64 [M, 1], at most K; later columns are of no meaning.

    Returns:
        int64 [M, K], below the population for the first `count` columns.
    """
    enough = population >= count
    ranks = torch.empty_like(uniform[:, :0], dtype=torch.int64)
    for number in range(uniform.shape[1]):
        choices = torch.where(enough, population - count + number + 1, population)
        rank = (uniform[:, number, None] * choices).long()
        taken = enough & (ranks == rank).any(1, keepdim=True)
        ranks = torch.cat([ranks, torch.where(taken, choices - 1, rank)], dim=1)
    return ranks


def _row_ends(masks: Tensor) -> Tensor:
    """How many cells are set down to each row's end: int64 [M, R], the last being the area."""
    return masks.view(torch.uint8).sum(-1, dtype=torch.int32).cumsum(-1)


def _set_cells(masks: Tensor, row_ends: Tensor, ranks: Tensor) -> Tensor:
    """Places of the set cells that have these ranks in row-major order.

    Args:
        masks: bool [M, R, R].
        row_ends: int64 [M, R], see `_row_ends`.
        ranks: int64 [M, K]; one at or above the area gives some cell inside the grid.

    Returns:
        int64 [M, K, 2], (x, y) on the mask grid.
    """
    last = masks.shape[-1] - 1
    y = torch.searchsorted(row_ends, ranks, right=True).clamp(max=last)
    rows = masks[_rows_of(masks), y]
    row_areas = rows.view(torch.uint8).sum(-1, dtype=torch.int32)
    rank_in_row = ranks - (row_ends.gather(1, y) - row_areas)
    column_ends = rows.cumsum(-1)
    x = torch.searchsorted(column_ends, rank_in_row.unsqueeze(-1), right=True).squeeze(-1)
    return torch.stack([x.clamp(max=last), y], dim=-1)


def _rows_of(masks: Tensor) -> Tensor:
    """Index [M, 1] of every mask, to gather cells with."""
    return torch.arange(len(masks), device=masks.device).unsqueeze(1)


def _padded(points: Tensor, labels: Tensor, unused: Tensor, is_box: Tensor) -> Prompts:
    """Prompts whose unused points, bool [M, P] or [M, 1], are padding."""
    return Prompts(
        points.masked_fill(unused.unsqueeze(-1), PAD_COORDINATE),
        labels.masked_fill(unused, PAD),
        is_box,
    )
