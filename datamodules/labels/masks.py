"""Boxes become masks: which regions are asked about, and what is made of the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datamodules.decoding.decode import cover
from datamodules.shards.records import Annotation, Region

MADE = "masks made"
HAD = "regions that had a mask"
EMPTY = "regions whose mask came out empty"
DOUBTFUL = "regions whose mask scored too low"
OUTSIDE = "regions whose box covers nothing of the image"
BOXES_KEPT = (EMPTY, DOUBTFUL, OUTSIDE)
"""Why a region stays as it was, with its box alone."""
DECIMALS = 4
"""Of the scores that are written: the last bits of a float are the arithmetic's, not the mask's."""

Boxes = NDArray[np.float32]


class PredictedMask(NamedTuple):
    """A mask that a model drew, and what it thinks of it."""

    segmentation: dict[str, Any]
    """COCO run-length encoding of the image's size."""
    iou: float
    """The model's guess of the mask's IoU with the true one, about 0 to 1."""
    stability: float
    """How little the mask changes when its threshold moves, in [0, 1]."""


class Segmenter(Protocol):
    """Someone who draws masks; it travels to other processes."""

    def segment(self, pixels: NDArray[np.uint8], boxes: Boxes) -> list[PredictedMask]:
        """Draw the mask of each box.

        Args:
            pixels: the image, uint8 `[H, W, 3]` RGB.
            boxes: float32 `[M, 4]`, left, top, right and bottom inside the image, in its pixels;
                M is at least 1.
        """


class Asked(NamedTuple):
    """The regions of an image that are to have a mask."""

    numbers: list[int]
    """M of them, by their place in the annotation."""
    boxes: Boxes
    """Their boxes inside the image, float32 `[M, 4]`: left, top, right, bottom in its pixels."""


@dataclass(frozen=True)
class MaskRule:
    """Which regions get a mask, and which masks are good enough."""

    min_iou: float = 0.0
    """Masks that the model itself scores lower are not taken, in [0, 1]."""
    overwrite: bool = False
    """Whether regions that have a mask get another one."""

    def asked(self, annotation: Annotation, counts: Counter[str]) -> Asked:
        """The regions to ask about; the others are counted by why they are left alone."""
        regions = annotation.regions
        boxes = np.array([region.box for region in regions], np.float64).reshape(-1, 4)
        covers = cover(boxes, annotation)
        had = np.array([region.segmentation is not None for region in regions], bool)
        had &= not self.overwrite
        counts[HAD] += int(had.sum())
        counts[OUTSIDE] += int((~had & ~covers).sum())
        numbers = np.flatnonzero(~had & covers)
        corners = np.concatenate([boxes[numbers, :2], boxes[numbers, :2] + boxes[numbers, 2:]], 1)
        inside = corners.clip(0, np.tile([annotation.width, annotation.height], 2))
        return Asked(numbers.tolist(), inside.astype(np.float32))

    def labelled(
        self,
        regions: Sequence[Region],
        asked: Asked,
        masks: Sequence[PredictedMask],
        counts: Counter[str],
    ) -> list[Region]:
        """All regions of an image in their order, those that were asked about with their masks.

        Box, phrases and category stay people's own. Where a mask is no good, the region stays as it
        was; every mask is counted by what became of it.
        """
        result = list(regions)
        for number, mask in zip(asked.numbers, masks, strict=True):
            score = min(max(mask.iou, 0.0), 1.0)
            area = int(coco_mask.area(mask.segmentation))
            fate = EMPTY if not area else DOUBTFUL if score < self.min_iou else MADE
            counts[fate] += 1
            if fate is MADE:
                result[number] = replace(
                    regions[number],
                    segmentation=mask.segmentation,
                    area=float(area),
                    predicted_iou=round(score, DECIMALS),
                    stability_score=round(mask.stability, DECIMALS),
                )
        return result
