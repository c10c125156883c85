"""Room for the pixels and masks of one batch, which samples are decoded straight into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.decode import DecodedSample, Frame
from datamodules.shards.records import BadSample


@dataclass(frozen=True, slots=True)
class Slots:
    """Memory for B samples of at most L regions. A batch keeps it: it is not used for another."""

    pixels: NDArray[np.uint8]
    """`[B, S, S, 3]`."""
    masks: NDArray[np.bool_]
    """`[B, L, R, R]`: of a slot, the first rows are the sample's; memory that is not written to
    takes none."""

    @classmethod
    def make(cls, batch: int, frame: Frame, regions: int) -> Self:
        """Room for `batch` samples of at most `regions` regions; what is in it is arbitrary."""
        side, cells = frame.size, frame.mask_size
        return cls(
            np.empty((batch, side, side, 3), np.uint8),
            np.empty((batch, regions, cells, cells), bool),
        )


@dataclass(frozen=True, slots=True)
class DecodedGroup:
    """Samples of one batch, as far as they could be decoded, in order."""

    slots: Slots
    results: list[DecodedSample | BadSample]
    """The sample in each slot, or why there is none."""

    @property
    def good(self) -> list[DecodedSample]:
        """The samples that could be decoded."""
        return [result for result in self.results if isinstance(result, DecodedSample)]

    @property
    def regions(self) -> int:
        """Regions of the good samples."""
        return sum(len(sample.masks) for sample in self.good)

    @property
    def phrased(self) -> int:
        """Regions of the good samples that have a phrase."""
        return sum(bool(phrases) for sample in self.good for phrases in sample.phrases)

    def close_gaps(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Move what was decoded together; call it once.

        Where every slot is full, nothing is moved.

        Returns:
            uint8 `[b, S, S, 3]` and bool `[M, R, R]`, views of the slots: pixels and masks of the
            good samples, in order.
        """
        pixels, masks = self.slots.pixels, self.slots.masks
        rows = masks.reshape(-1, *masks.shape[2:])
        image = region = 0
        for place, result in enumerate(self.results):
            if isinstance(result, BadSample):
                continue
            start, count = place * masks.shape[1], len(result.masks)
            if image < place:
                pixels[image] = pixels[place]
            if region < start:
                rows[region : region + count] = rows[start : start + count]
            image, region = image + 1, region + count
        return pixels[:image], rows[:region]


class StepTotals(NamedTuple):
    """What all micro-batches of one rank's optimizer step hold together."""

    regions: int = 0
    phrased: int = 0
    """Regions with at least one phrase."""

    @classmethod
    def of(cls, groups: Sequence[DecodedGroup]) -> Self:
        """Count a whole step."""
        return cls(sum(group.regions for group in groups), sum(group.phrased for group in groups))


NO_STEP = StepTotals()
"""Where no step is taken."""
