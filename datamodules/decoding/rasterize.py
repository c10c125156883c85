"""From run-length encoding straight to the loss resolution, without the full mask in between.

A COCO mask is a list of runs down its columns. Each piece of a run inside a column becomes a
rectangle in the target grid, and the share of every cell that it covers is written as the
difference from the cell above: four numbers for each column of cells it touches. One cumulative sum
down the grid gives the area-weighted coverage of every cell.

All masks of an image are drawn in one call, which holds no lock of Python's: runs are read from
their text and become rectangles at once, and a mask is written where the batch wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding import coverage
from datamodules.decoding.run_lengths import broken_counts, text_of

_LEAST_PIXELS = 1e-4
"""Less than this, in pixels of the frame, is a rounding error, not a region."""


class EmptyMaskError(ValueError):
    """A mask that covers no pixel of its image."""


class Affine(NamedTuple):
    """Pixels of the image to pixels of the frame: `x' = scale_x * x + offset_x`, and y alike.

    A pixel i covers the interval from i to i + 1. A negative `scale_x` mirrors.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


class Drawing(NamedTuple):
    """What came of a sequence of regions."""

    drawn: NDArray[np.int64]
    """Places in the sequence of those that were drawn, ascending."""
    boxes: NDArray[np.float64]
    """`[drawn, 4]`: tight box of each one's visible part, x0, y0, x1, y1, in pixels of the
    frame."""
    empty: int
    """How many cover no pixel of the image."""


class Rasterizer:
    """Draws masks of one image in the cells of one frame.

    Coverage is exact up to float32 rounding (below 1e-4), whatever the scale: a cell is set where
    half of it is covered. Where no cell is, those with the greatest coverage are set, so that what
    is visible never has an empty mask.

    Args:
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        affine: from pixels of the image to pixels of the frame.
        frame_size: side of the frame, in pixels.
        mask_size: side of a mask, in cells; a cell is `frame_size / mask_size` pixels wide.
    """

    def __init__(
        self, height: int, width: int, affine: Affine, frame_size: int, mask_size: int
    ) -> None:
        self._height = height
        self._width = width
        self._cell = frame_size / mask_size
        self._affine = tuple(float(value) / self._cell for value in affine)
        self._grid = np.zeros((mask_size + 2, mask_size), np.float32)

    def draw_all(
        self,
        segmentations: Sequence[Any],
        boxes: NDArray[np.float64],
        masks: NDArray[np.bool_],
        min_pixels: float = 0.0,
    ) -> Drawing:
        """Draw the regions of which enough is visible.

        Args:
            segmentations: COCO run-length encodings; None where only the box is known, which then
                is the mask.
            boxes: float64 `[regions, 4]`: left, top, width and height in pixels of the image.
            masks: bool `[regions or more, mask_size, mask_size]`, contiguous: the first ones are
                written, one for each region that is drawn, without a gap.
            min_pixels: least visible area of what is drawn, in pixels of the frame.

        Raises:
            ValueError: if an encoding is broken, or is not of an image of that size.
        """
        assert len(masks) >= len(segmentations), "no room for all masks"
        size = self._height, self._width
        texts = [None if each is None else text_of(each, *size) for each in segmentations]
        tight = np.empty((len(texts) + 1, 4))
        outcomes = np.empty(len(texts), np.uint8)
        met = coverage.draw_all(
            np.frombuffer(b"".join(filter(None, texts)), np.uint8),
            np.array([-1 if text is None else len(text) for text in texts], np.int64),
            boxes,
            size,
            self._affine,
            max(min_pixels, _LEAST_PIXELS) / self._cell**2,
            self._grid,
            masks,
            (outcomes, tight),
        )
        if met < len(texts):
            raise broken_counts(*size)
        drawn = np.flatnonzero(outcomes == coverage.DRAWN)
        return Drawing(
            drawn, tight[: len(drawn)] * self._cell, int((outcomes == coverage.FAULTY).sum())
        )

    def draw(
        self, segmentation: Any, mask: NDArray[np.bool_], min_pixels: float = 0.0
    ) -> NDArray[np.float64] | None:
        """Draw one mask into `mask`, bool `[mask_size, mask_size]`.

        Returns:
            The tight box of the visible part, float64 `[4]` x0, y0, x1, y1 in pixels of the frame;
            None where less than `min_pixels`, or nothing at all, is visible: then nothing is
            written.

        Raises:
            EmptyMaskError: if the mask covers nothing, in the frame or outside.
            ValueError: if the encoding is broken, or is not of an image of that size.
        """
        drawing = self.draw_all([segmentation], np.zeros((1, 4)), mask[None], min_pixels)
        if drawing.empty:
            raise EmptyMaskError("the mask covers no pixel")
        return drawing.boxes[0] if len(drawing.boxes) else None
