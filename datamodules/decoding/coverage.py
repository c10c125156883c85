"""The compiled part of the rasterizer: from text to differences, from differences to masks.

Nothing here checks an index: what comes from a file is checked when it is read (`_read_run`), and
what is drawn is clipped to the grid before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datamodules.decoding.compiled import compiled

COVERAGE_THRESHOLD = 0.5 - 1e-4
"""A cell belongs to the mask when half of it is covered; the slack takes in rounding at ties."""
BROKEN, EMPTY = -1, -2
"""What stands for a place in the text, or an area, where an encoding cannot be read, and where it
covers nothing."""
DRAWN, HIDDEN, FAULTY = 0, 1, 2
"""What becomes of a region."""


@compiled
def draw_all(
    text: Any,
    lengths: Any,
    boxes: Any,
    size: Any,
    affine: Any,
    least: float,
    grid: Any,
    masks: Any,
    found: Any,
) -> int:
    """Draw regions until one is broken; returns how many are not.

    Args:
        text: compressed counts of all masks, uint8, one after the other.
        lengths: characters of each one's, int64 `[regions]`; -1 where the box is the mask.
        boxes: left, top, width and height in pixels of the image, float64 `[regions, 4]`.
        size: height and width of the image, in pixels.
        affine: scale x, scale y, offset x, offset y, from pixels of the image to cells.
        least: least visible area, in cells.
        grid: float32 `[cells + 2, cells]`, all zero, and so it is left; two rows take the
            differences below the last cell.
        masks: bool `[regions, cells, cells]`; receives what is drawn, without a gap.
        found: what became of each, uint8 `[regions]`, and the tight boxes of what is drawn, in
            cells, float64 `[regions + 1, 4]`; receives them.
    """
    outcomes, tight = found
    sums = np.empty(grid.shape[1], np.float32)
    drawn = start = 0
    for number in range(len(lengths)):
        if lengths[number] >= 0:
            end = start + lengths[number]
            area = _spread_runs(text[start:end], size, affine, grid, tight[drawn])
            start = end
        else:
            area = _spread_box(boxes[number], size, affine, grid, tight[drawn])
        if area == BROKEN:
            grid[:] = 0.0
            return number
        if area == EMPTY:
            outcomes[number] = FAULTY
            continue
        outcomes[number] = HIDDEN if area < least else DRAWN
        if area >= least:
            _threshold(grid, tight[drawn], sums, masks[drawn])
        _clear(grid, tight[drawn])
        drawn += area >= least
    return len(lengths)


@compiled
def _spread_runs(text: Any, size: Any, affine: Any, grid: Any, box: Any) -> float:
    """Write the differences of a mask's coverage to `grid`, and its tight box to `box`.

    Returns:
        The visible area, in cells.
    """
    height, width = size
    scale_x, scale_y, offset_x, offset_y = affine
    cells = float(grid.shape[1])
    # The box is kept in variables: for all that the compiler knows, its array is part of the grid.
    first_x, first_y, last_x, last_y = cells, cells, 0.0, 0.0
    area = 0.0
    covered = column = row = run = position = 0
    pixels_left = height * width
    last = before_last = 0
    while position < len(text):
        position, length = _read_run(text, position, before_last if run > 2 else 0, pixels_left)
        if position == BROKEN:
            return BROKEN
        before_last, last = last, length
        pixels_left -= length
        if run % 2 == 1:
            covered += length
            while length > 0:
                end = min(height, row + length)
                near = scale_x * column + offset_x
                left, right = _clipped(near, near + scale_x, cells)
                top, bottom = _clipped(scale_y * row + offset_y, scale_y * end + offset_y, cells)
                if left < right and top < bottom:
                    first_x, first_y = min(first_x, left), min(first_y, top)
                    last_x, last_y = max(last_x, right), max(last_y, bottom)
                    area += _add_rectangle(left, right, top, bottom, grid)
                length -= end - row
                row = end
                if end == height:
                    row = 0
                    column += 1
        row += length
        if row >= height:
            column += row // height
            row %= height
        run += 1
    box[0], box[1], box[2], box[3] = first_x, first_y, last_x, last_y
    if pixels_left != 0:
        return BROKEN
    return area if covered > 0 else EMPTY


@compiled
def _spread_box(whole: Any, size: Any, affine: Any, grid: Any, box: Any) -> float:
    """What `_spread_runs` does, for a box: left, top, width and height."""
    scale_x, scale_y, offset_x, offset_y = affine
    cells = float(grid.shape[1])
    begin, end = max(whole[0], 0.0), min(whole[0] + whole[2], float(size[1]))
    above, below = max(whole[1], 0.0), min(whole[1] + whole[3], float(size[0]))
    if not (begin < end and above < below):
        return EMPTY
    left, right = _clipped(scale_x * begin + offset_x, scale_x * end + offset_x, cells)
    top, bottom = _clipped(scale_y * above + offset_y, scale_y * below + offset_y, cells)
    box[0], box[1], box[2], box[3] = left, top, right, bottom
    if not (left < right and top < bottom):
        box[0], box[1], box[2], box[3] = cells, cells, 0.0, 0.0
        return 0.0
    return _add_rectangle(left, right, top, bottom, grid)


@compiled
def _clipped(one: float, other: float, cells: float) -> tuple[float, float]:
    return max(min(one, other), 0.0), min(max(one, other), cells)


@compiled
def _add_rectangle(left: float, right: float, top: float, bottom: float, grid: Any) -> float:
    """Add a rectangle inside the grid, in cells, to the differences; returns its area."""
    area = (right - left) * (bottom - top)
    first, last = int(top), int(bottom)
    into_first, into_last = top - first, bottom - last
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
def _cells_of(box: Any, cells: int) -> tuple[int, int, int, int]:
    """The cells that a box touches: first and last column and row, the last ones excluded."""
    right, bottom = min(int(np.ceil(box[2])), cells), min(int(np.ceil(box[3])), cells)
    return int(box[0]), int(box[1]), right, bottom


@compiled
def _threshold(grid: Any, box: Any, sums: Any, mask: Any) -> None:
    """Sum the differences inside `box` to coverage and write the whole of `mask`."""
    left, top, right, bottom = _cells_of(box, grid.shape[1])
    mask[:] = False
    if _mark(grid[top:bottom, left:right], COVERAGE_THRESHOLD, sums, mask[top:bottom, left:right]):
        return
    greatest = _greatest(grid[top:bottom, left:right], sums)
    _mark(grid[top:bottom, left:right], greatest * (1.0 - 1e-4), sums, mask[top:bottom, left:right])


@compiled
def _mark(grid: Any, threshold: float, sums: Any, mask: Any) -> bool:
    """Set the cells whose coverage reaches the threshold; returns whether there are any."""
    total = sums[: grid.shape[1]]
    total[:] = 0.0
    least = np.float32(threshold)
    found = 0
    for row in range(len(grid)):
        # Slices of equal length, indexed from 0, are what the compiler turns into SIMD.
        differences = grid[row]
        inside = mask[row]
        for column in range(len(total)):
            total[column] += differences[column]
            inside[column] = total[column] >= least
        for column in range(len(total)):
            found |= inside[column]
    return found > 0


@compiled
def _greatest(grid: Any, sums: Any) -> float:
    total = sums[: grid.shape[1]]
    total[:] = 0.0
    greatest = np.float32(0.0)
    for row in range(len(grid)):
        for column in range(len(total)):
            total[column] += grid[row, column]
            greatest = max(greatest, total[column])
    return float(greatest)


@compiled
def _clear(grid: Any, box: Any) -> None:
    left, top, right, bottom = _cells_of(box, grid.shape[1])
    grid[top : bottom + 2, left:right] = 0.0


@compiled
def write_runs(runs: Any, text: Any) -> int:
    """Compress runs, int64 `[runs]`, to text, uint8; returns the number of characters."""
    position = 0
    for run in range(len(runs)):
        value = runs[run] - (runs[run - 2] if run > 2 else 0)
        more = True
        while more:
            character = value & 31
            value >>= 5
            more = value != (-1 if character & 16 else 0)
            text[position] = 48 + character + (32 if more else 0)
            position += 1
    return position


@compiled
def read_runs(text: Any, runs: Any, pixels: int) -> int:
    """Read all runs of compressed counts, uint8, into int64 `[characters]`.

    Returns:
        Their number; `BROKEN` if they cannot be read, or are not of so many pixels in all.
    """
    count = position = 0
    while position < len(text):
        before = runs[count - 2] if count > 2 else 0
        position, runs[count] = _read_run(text, position, before, pixels)
        if position == BROKEN:
            return BROKEN
        pixels -= runs[count]
        count += 1
    return count if pixels == 0 else BROKEN


@compiled
def _read_run(text: Any, position: int, before: int, left: int) -> tuple[int, int]:
    """Read a run that begins at a place in compressed counts.

    Args:
        text: the counts, uint8.
        position: where the run begins.
        before: the run that it tells the difference from; 0 for the first three.
        left: pixels that the runs up to it leave over.

    Returns:
        Where the next run begins, and the length of this one. `BROKEN` and 0 if the text ends
        within it, or holds a character or a length that cannot be.
    """
    value = shift = 0
    while position < len(text) and shift <= 30:
        character = int(text[position]) - 48
        if character < 0 or character > 63:
            return BROKEN, 0
        value |= (character & 31) << shift
        shift += 5
        position += 1
        if character & 32 == 0:
            if character & 16:
                value -= 1 << shift
            value += before
            return (position, value) if 0 <= value <= left else (BROKEN, 0)
    return BROKEN, 0
