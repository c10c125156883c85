"""From run-length encoding straight to the loss resolution, without the full mask in between.

A COCO mask is a list of runs down its columns. Each piece of a run inside a column becomes a
rectangle in the target grid, and the share of every cell that it covers is written as the
difference from the cell above: four numbers for each column of cells it touches. One cumulative sum
down the grid gives the area-weighted coverage of every cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.compiled import compiled

COVERAGE_THRESHOLD = 0.5 - 1e-4
"""A cell belongs to the mask when half of it is covered; the slack takes in rounding at ties."""
_LEAST_PIXELS = 1e-4
"""Less than this, in pixels of the frame, is a rounding error, not a region."""
_BROKEN = -1


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


@compiled
def _read_counts(data: Any, runs: Any, pixels: int) -> int:
    """Read COCO's compressed counts into `runs`; returns their number, or -1 if they are broken."""
    count = 0
    total = 0
    position = 0
    while position < len(data):
        value = 0
        shift = 0
        more = True
        while more:
            if position == len(data) or shift > 30:
                return _BROKEN
            character = int(data[position]) - 48
            if character < 0 or character > 63:
                return _BROKEN
            value |= (character & 31) << shift
            shift += 5
            position += 1
            more = character & 32 != 0
            if not more and character & 16:
                value -= 1 << shift
        if count > 2:
            value += runs[count - 2]
        if value < 0 or value > pixels - total:
            return _BROKEN
        runs[count] = value
        total += value
        count += 1
    return count if total == pixels else _BROKEN


def run_lengths(segmentation: dict[str, Any], height: int, width: int) -> NDArray[np.int64]:
    """The runs of a COCO mask, background first, down its columns.

    Args:
        segmentation: `{"size": [height, width], "counts": compressed str or bytes, or a list}`.
        height: height of the image, in pixels.
        width: width of the image, in pixels.

    Returns:
        int64 `[runs]`, not negative, with the sum `height * width`.

    Raises:
        ValueError: if the encoding is broken, or is not of an image of that size.
    """
    try:
        size, counts = list(segmentation["size"]), segmentation["counts"]
    except (KeyError, TypeError) as error:
        raise ValueError("the mask is not a run-length encoding with size and counts") from error
    if size != [height, width]:
        raise ValueError(f"the mask is of size {size}, the image of [{height}, {width}]")
    if isinstance(counts, list):
        return _checked_runs(counts, height * width)
    text = counts.encode() if isinstance(counts, str) else counts
    if not isinstance(text, bytes):
        raise ValueError("the mask's counts are neither text nor a list")
    data = np.frombuffer(text, np.uint8)
    runs = np.empty(len(data), np.int64)
    count = _read_counts(data, runs, height * width)
    if count == _BROKEN:
        raise ValueError(f"the mask's compressed counts do not tell {height} x {width} pixels")
    return runs[:count]


def _checked_runs(counts: list[Any], pixels: int) -> NDArray[np.int64]:
    try:
        runs = np.asarray(counts)
    except ValueError as error:
        raise ValueError("the mask's counts are not a list of integers") from error
    if runs.dtype.kind not in "iu" or runs.ndim != 1:
        raise ValueError("the mask's counts are not a list of integers")
    if runs.min() < 0 or runs.max() > pixels or runs.sum() != pixels:
        raise ValueError(f"the mask's counts do not tell {pixels} pixels")
    return runs.astype(np.int64)


@compiled
def _spread(
    runs: Any, height: int, affine: tuple[float, float, float, float], grid: Any, box: Any
) -> float:
    """Write the differences of a mask's coverage to `grid`, and its tight box to `box`.

    Args:
        runs: lengths of the runs, int64 `[runs]`.
        height: height of the image.
        affine: scale x, scale y, offset x, offset y, from pixels of the image to cells.
        grid: float32 `[cells + 2, cells]`, zero; two rows take the differences below the last cell.
        box: float64 `[4]`, left, top, right and bottom of the visible part, in cells.

    Returns:
        The visible area, in cells.
    """
    scale_x, scale_y, offset_x, offset_y = affine
    cells = grid.shape[1]
    box[0], box[1], box[2], box[3] = cells, cells, 0.0, 0.0
    area = 0.0
    start = 0
    for run in range(len(runs)):
        length = runs[run]
        column = start // height
        row = start - column * height
        start += length
        if run % 2 == 0:
            continue
        while length > 0:
            end = min(height, row + length)
            length -= end - row
            top = max(scale_y * row + offset_y, 0.0)
            bottom = min(scale_y * end + offset_y, float(cells))
            near = scale_x * column + offset_x
            far = near + scale_x
            left = max(min(near, far), 0.0)
            right = min(max(near, far), float(cells))
            column += 1
            row = 0
            if bottom <= top or right <= left:
                continue
            area += (bottom - top) * (right - left)
            box[0] = min(box[0], left)
            box[1] = min(box[1], top)
            box[2] = max(box[2], right)
            box[3] = max(box[3], bottom)
            first = int(top)
            last = int(bottom)
            into_first = top - first
            into_last = bottom - last
            while left < right:
                cell = int(left)
                edge = min(cell + 1.0, right)
                weight = edge - left
                grid[first, cell] += weight * (1.0 - into_first)
                grid[first + 1, cell] += weight * into_first
                grid[last, cell] -= weight * (1.0 - into_last)
                grid[last + 1, cell] -= weight * into_last
                left = edge
    return area


@compiled
def _threshold(grid: Any, box: Any, mask: Any, threshold: float) -> None:
    """Sum the differences inside `box` to coverage, fill `mask` and leave `grid` zero again."""
    cells = grid.shape[1]
    left, top = int(box[0]), int(box[1])
    right, bottom = min(int(np.ceil(box[2])), cells), min(int(np.ceil(box[3])), cells)
    covered = 0
    for row in range(top, bottom):
        for column in range(left, right):
            if row > top:
                grid[row, column] += grid[row - 1, column]
            inside = grid[row, column] >= threshold
            mask[row, column] = inside
            covered += inside
    if covered == 0:
        greatest = grid[top:bottom, left:right].max() * (1.0 - 1e-4)
        for row in range(top, bottom):
            for column in range(left, right):
                mask[row, column] = grid[row, column] >= greatest
    _clear(grid, box)


@compiled
def _clear(grid: Any, box: Any) -> None:
    cells = grid.shape[1]
    bottom = min(int(np.ceil(box[3])) + 2, cells + 2)
    grid[int(box[1]) : bottom, int(box[0]) : min(int(np.ceil(box[2])), cells)] = 0.0


class Rasterizer:
    """Draws masks of one image in the cells of one frame.

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
        self._box = np.empty(4)

    def draw(
        self, segmentation: dict[str, Any], mask: NDArray[np.bool_], min_pixels: float = 0.0
    ) -> NDArray[np.float64] | None:
        """Draw a mask, if enough of it is visible.

        Coverage is exact up to float32 rounding (below 1e-4), whatever the scale: a cell is set
        where half of it is covered. Where no cell is, those with the greatest coverage are set, so
        that what is visible never has an empty mask.

        Args:
            segmentation: a COCO run-length encoding.
            mask: bool `[mask_size, mask_size]`, all False; written only if the mask is drawn.
            min_pixels: least visible area, in pixels of the frame.

        Returns:
            The tight box of the visible part, float64 `[4]` x0, y0, x1, y1 in pixels of the frame;
            None where less than `min_pixels`, or nothing at all, is visible.

        Raises:
            EmptyMaskError: if the mask covers nothing, in the frame or outside.
            ValueError: if the encoding is broken, or is not of an image of that size.
        """
        runs = run_lengths(segmentation, self._height, self._width)
        if not runs[1::2].any():
            raise EmptyMaskError("the mask covers no pixel")
        area = _spread(runs, self._height, self._affine, self._grid, self._box)
        if area * self._cell**2 < max(min_pixels, _LEAST_PIXELS):
            _clear(self._grid, self._box)
            return None
        _threshold(self._grid, self._box, mask, COVERAGE_THRESHOLD)
        return self._box * self._cell
