"""Antialiased bilinear resampling of a part of a picture, straight into the frame.

The same filter as Pillow's `BILINEAR` (a triangle as wide as a target pixel, at least two source
pixels), in float32 instead of rounding in between: no value differs by more than 1. Each target row
is made at once, down the columns and then along the row, so nothing but that row is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.compiled import compiled


def resample(
    image: NDArray[np.uint8],
    crop: tuple[float, float, float, float],
    size: tuple[int, int],
    frame: NDArray[np.uint8],
    mirrored: bool = False,
) -> None:
    """Draw a part of an image at the top left of a frame.

    Args:
        image: uint8 `[height, width, 3]`, contiguous.
        crop: left, top, right and bottom of the part, as shares of the image's sides, in [0, 1].
        size: height and width to draw the part at, in pixels of the frame.
        frame: uint8 `[S, S, 3]`, contiguous; only the part's own pixels are written.
        mirrored: whether the part is mirrored left to right.
    """
    height, width, channels = image.shape
    left, top, right, bottom = crop
    rows, row_weights = _taps(top * height, bottom * height, size[0], height)
    columns, column_weights = _taps(left * width, right * width, size[1], width)
    flat = image.reshape(height, width * channels)
    _resample(flat, rows, row_weights, columns, column_weights, frame, mirrored)


def _taps(
    start: float, stop: float, count: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """First source pixel and weights of each target pixel along one axis.

    Returns:
        int64 `[count]` and float32 `[count, taps]`, rows of sum 1, 0 outside the image.
    """
    scale = (stop - start) / count
    support = max(scale, 1.0)
    centres = start + (np.arange(count) + 0.5) * scale
    first = np.maximum(np.floor(centres - support + 0.5), 0).astype(np.int64)
    sources = first[:, None] + np.arange(2 * int(np.ceil(support)) + 1)
    weights = np.maximum(1.0 - np.abs(sources + 0.5 - centres[:, None]) / support, 0.0)
    weights[sources >= size] = 0.0
    used = weights.any(axis=0)
    weights = weights[:, : len(used) - int(used[::-1].argmax())]
    return first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@compiled
def _resample(
    image: Any,
    rows: Any,
    row_weights: Any,
    columns: Any,
    column_weights: Any,
    frame: Any,
    mirrored: bool,
) -> None:
    begin = 3 * columns[0]
    end = min(image.shape[1], 3 * (columns[-1] + column_weights.shape[1]))
    line = np.zeros(image.shape[1] + 3 * column_weights.shape[1], np.float32)
    used = line[begin:end]
    for y in range(len(rows)):
        used[:] = 0.0
        for tap in range(row_weights.shape[1]):
            weight = row_weights[y, tap]
            if weight > 0.0:
                # Slices of equal length, indexed from 0, are what the compiler turns into SIMD.
                source = image[rows[y] + tap, begin:end]
                for i in range(len(used)):
                    used[i] += weight * np.float32(source[i])
        for x in range(len(columns)):
            place = 3 * columns[x]
            red = green = blue = np.float32(0.5)
            for weight in column_weights[x]:
                red += weight * line[place]
                green += weight * line[place + 1]
                blue += weight * line[place + 2]
                place += 3
            target = len(columns) - 1 - x if mirrored else x
            frame[y, target, 0] = np.uint8(np.int32(red))
            frame[y, target, 1] = np.uint8(np.int32(green))
            frame[y, target, 2] = np.uint8(np.int32(blue))
