"""Scores of held-out regions, as sums that workers can add and as the means that people read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class RegionScores:
    """Means over held-out regions with a mask, each region counting alike.

    IoU is measured in the cells of the loss resolution, against the masks that training uses; it is
    None if no region has a mask, as where only boxes are known. Captions are means over the regions
    that people have described; their fields are those of `CaptionMeans`, and None for a model that
    has not learned to speak.
    """

    box_iou: float | None
    """Mask IoU when the region's box is given (the answer is mask 0)."""
    point_iou: float | None
    """Mask IoU when one inner point is given (the answer is the best scored of masks 1 to 3)."""
    point_oracle_iou: float | None
    """The same if the best of the three masks were always picked."""
    concept_top1: float | None
    """Share of named regions whose likeliest concept, by the box, is their own; None if no region
    has a name."""
    regions: int
    """How many regions were scored."""
    named_regions: int
    """How many of them have a name in the vocabulary."""
    cider: float | None = None
    """CIDEr of the captions."""
    meteor: float | None = None
    """METEOR of the captions; None also without Java."""
    names_concept: float | None = None
    """Share of the captions that name the concept."""
    captions: int = 0
    """How many regions were described."""

    @classmethod
    def from_sums(cls, sums: Tensor) -> Self:
        """The means of what `region_sums` added up, float64 [6], over batches and workers."""
        box, point, oracle, hits, named, regions = sums.tolist()
        return cls(
            box_iou=box / regions if regions else None,
            point_iou=point / regions if regions else None,
            point_oracle_iou=oracle / regions if regions else None,
            concept_top1=hits / named if named else None,
            regions=round(regions),
            named_regions=round(named),
        )


def region_sums(
    box_iou: Tensor,
    point_iou: Tensor,
    point_oracle_iou: Tensor,
    predicted_concepts: Tensor,
    concepts: Tensor,
    weights: Tensor,
) -> Tensor:
    """Sums over the regions of a batch; those of several batches or workers may be added.

    Args:
        box_iou: float32 [M], as are the two that follow.
        point_iou: see `RegionScores`.
        point_oracle_iou: see `RegionScores`.
        predicted_concepts: int64 [M].
        concepts: int64 [M], -1 for a region without a name.
        weights: float32 [M], 1 for a region and 0 for a placeholder.

    Returns:
        float64 [6]: three sums of IoU, right names, named regions, regions.
    """
    named = concepts >= 0
    right = named & (predicted_concepts == concepts)
    columns = (box_iou, point_iou, point_oracle_iou, right, named, torch.ones_like(weights))
    return torch.stack([(column * weights).sum(dtype=torch.float64) for column in columns])
