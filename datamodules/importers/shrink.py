"""One sample at a smaller size: its picture, and every region with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datamodules.decoding.compiled import compiled
from datamodules.decoding.pictures import decode_picture
from datamodules.decoding.rasterize import Affine, EmptyMaskError, Rasterizer
from datamodules.decoding.resample import resample
from datamodules.shards.records import Region

TIGHT_PIXELS = 1.0
"""A box that differs by no more from the mask's, in pixels of the large image, is the mask's."""
LEAST_PIXELS = 0.5
"""A region with less than this left at the new size, in its pixels, vanishes."""


def smaller_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Height and width with a long side of at most `max_side`, in pixels; never enlarged."""
    scale = min(1.0, max_side / max(size))
    height, width = (max(2, int(side * scale + 0.5)) for side in size)
    return height, width


def shrink_picture(
    data: bytes, size: tuple[int, int], new_size: tuple[int, int], quality: int
) -> bytes:
    """Encode an image anew, at a smaller size.

    Args:
        data: a JPEG or PNG; transparency shows the pad colour.
        size: its height and width, in pixels.
        new_size: those of the result.
        quality: quality of the JPEG, 1 to 100; its colours have half the resolution.

    Raises:
        ValueError: if the image is broken.
    """
    picture = decode_picture(data, size, new_size)
    frame = np.empty((*new_size, 3), np.uint8)
    resample(np.ascontiguousarray(picture), (0.0, 0.0, 1.0, 1.0), new_size, frame)
    return simplejpeg.encode_jpeg(frame, quality=quality, colorspace="RGB", colorsubsampling="420")


def shrink_regions(
    regions: list[Region], size: tuple[int, int], new_size: tuple[int, int]
) -> list[Region | None]:
    """The regions of an image at a smaller size.

    A mask covers a pixel of which it covered half. A box that was the mask's is that of the new
    mask; another one is scaled. A region of which less than `LEAST_PIXELS` is left, or which was
    empty, vanishes.

    Args:
        regions: regions of the image.
        size: height and width of the image, in pixels.
        new_size: those of the smaller one.

    Returns:
        A region for each; None where it vanishes.

    Raises:
        ValueError: if a mask is broken.
    """
    scale = (new_size[1] / size[1], new_size[0] / size[0])
    side = max(new_size)
    rasterizer = Rasterizer(*size, Affine(*scale, 0.0, 0.0), side, side)
    mask = np.zeros((side, side), np.bool_)
    return [_shrink(region, scale, new_size, rasterizer, mask) for region in regions]


def _shrink(
    region: Region,
    scale: tuple[float, float],
    new_size: tuple[int, int],
    rasterizer: Rasterizer,
    mask: NDArray[np.bool_],
) -> Region | None:
    left, top, width, height = region.box
    corners = np.array([left, top, left + width, top + height]) * np.tile(scale, 2)
    if region.segmentation is None:
        return _boxed(region, corners)
    try:
        visible = rasterizer.draw(region.segmentation, mask, LEAST_PIXELS)
    except EmptyMaskError:
        return None
    if visible is None:
        return None
    cells = np.concatenate([np.floor(visible[:2]), np.ceil(visible[2:])]).astype(np.int64)
    runs = np.empty(_most_runs(cells), np.int64)
    count, area = _read_and_clear(mask, cells, new_size[0], new_size[1], runs)
    encoded = coco_mask.frPyObjects(
        {"size": list(new_size), "counts": runs[:count].tolist()}, *new_size
    )
    segmentation = {"size": list(new_size), "counts": encoded["counts"].decode("ascii")}
    if np.all(np.abs(corners - visible) <= TIGHT_PIXELS * max(scale)):
        corners = cells.astype(np.float64)
    return replace(region, segmentation=segmentation, box=_box(corners), area=float(area))


def _boxed(region: Region, corners: NDArray[np.float64]) -> Region | None:
    """A region of which only the box is known, at its new place."""
    area = float(np.prod(corners[2:] - corners[:2]))
    return replace(region, box=_box(corners), area=area) if area >= LEAST_PIXELS else None


def _box(corners: NDArray[np.float64]) -> tuple[float, float, float, float]:
    left, top, right, bottom = corners.tolist()
    return (round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2))


def _most_runs(cells: NDArray[np.int64]) -> int:
    left, top, right, bottom = cells.tolist()
    return (right - left) * (bottom - top + 2) + 2


@compiled
def _read_and_clear(mask: Any, cells: Any, height: int, width: int, runs: Any) -> tuple[int, int]:
    """Write the runs of a mask down its columns, background first, and leave the mask False.

    Args:
        mask: bool, at least `[height, width]`, False outside `cells`.
        cells: int64 `[4]`, left, top, right and bottom of what may be True; receives those of what
            is True.
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        runs: int64, receives the runs.

    Returns:
        Number of runs, and of pixels that are True.
    """
    left, top, right, bottom = cells[0], cells[1], min(cells[2], width), min(cells[3], height)
    cells[0], cells[1], cells[2], cells[3] = width, height, 0, 0
    count, area, start, inside = 0, 0, 0, False
    for column in range(left, right):
        for row in range(top, bottom + 1):
            value = row < bottom and mask[row, column]
            if value != inside:
                place = column * height + row
                if value and place == start and count > 0:
                    # The run goes on from the foot of one column to the head of the next.
                    count -= 1
                    start -= runs[count]
                else:
                    runs[count] = place - start
                    count += 1
                    start = place
                inside = value
            if value:
                area += 1
                mask[row, column] = False
                cells[0], cells[1] = min(cells[0], column), min(cells[1], row)
                cells[2], cells[3] = column + 1, max(cells[3], row + 1)
    if start < height * width:
        runs[count] = height * width - start
        count += 1
    return count, area
