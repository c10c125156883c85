"""What can be had without learning: the box as mask, a disc at the point, the commonest words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tap_platform.evaluation.interior import interior_cells
from tap_platform.evaluation.scores import RegionScores, region_sums
from tap_platform.objectives.segmentation import mask_area, mask_iou

if TYPE_CHECKING:
    from datamodules.stream.batch import RegionBatch


@dataclass(frozen=True)
class TrainingStatistics:
    """What the baselines know of the training set."""

    mean_area: float
    """Mean area of a region with a mask, as a share of the input frame; 0 if none has one."""
    commonest_concept: int
    """Index in the vocabulary, or -1 if no region has a name."""
    commonest_phrase: str
    """In lower case; empty if nothing is said of any region."""


def measure_training_set(batches: Iterable[RegionBatch]) -> TrainingStatistics:
    """Look at training regions, all of them or a fair part."""
    areas: list[Tensor] = []
    concepts: list[Tensor] = []
    phrases: Counter[str] = Counter()
    for batch in batches:
        real = batch.weights > 0
        areas.append(mask_area(batch.masks[real & batch.has_mask]) / batch.masks[0].numel())
        concepts.append(batch.concepts[real & (batch.concepts >= 0)])
        phrases.update(phrase.lower() for said in batch.phrases for phrase in said)
    shares, names = (
        torch.cat(values) if values else torch.empty(0) for values in (areas, concepts)
    )
    commonest = int(names.bincount().argmax()) if len(names) else -1
    return TrainingStatistics(
        mean_area=float(shares.double().mean()) if len(shares) else 0.0,
        commonest_concept=commonest,
        commonest_phrase=next((phrase for phrase, _ in phrases.most_common(1)), ""),
    )


def evaluate_baselines(
    batches: Iterable[RegionBatch], statistics: TrainingStatistics
) -> RegionScores:
    """Score the trivial answers on held-out regions, by the same measures as a model."""
    sums = torch.zeros(6, dtype=torch.float64)
    for batch in batches:
        size, frame = batch.masks.shape[-1], batch.pixels.shape[-1]
        boxes = box_masks(batch.boxes, size, frame)
        discs = disc_masks(interior_cells(batch.masks), statistics.mean_area * size**2, size)
        by_point = mask_iou(discs, batch.masks)
        sums += region_sums(
            box_iou=mask_iou(boxes, batch.masks),
            point_iou=by_point,
            point_oracle_iou=by_point,
            predicted_concepts=torch.full_like(batch.concepts, statistics.commonest_concept),
            concepts=batch.concepts,
            weights=batch.weights * batch.has_mask,
        ).cpu()
    return RegionScores.from_sums(sums)


def box_masks(boxes: Tensor, size: int, frame: int) -> Tensor:
    """Boxes as masks: the cells whose centre lies inside.

    Args:
        boxes: float32 [M, 4], xyxy in pixels of the input frame, whose left edge is 0.
        size: cells of the mask grid's side.
        frame: side of the input frame, in pixels.

    Returns:
        bool [M, size, size].
    """
    centres = (torch.arange(size, device=boxes.device) + 0.5) * (frame / size)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    columns = (left <= centres) & (centres < right)
    rows = (top <= centres) & (centres < bottom)
    return rows[:, :, None] & columns[:, None, :]


def disc_masks(cells: Tensor, area: float, size: int) -> Tensor:
    """Discs of one area, in cells, around int64 [M, 2] cells (x, y): bool [M, size, size]."""
    places = torch.arange(size, device=cells.device)
    off_x, off_y = (places - cells[:, :, None]).square().unbind(1)
    return torch.pi * (off_y[:, :, None] + off_x[:, None, :]) <= area
