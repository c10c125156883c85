"""Antialiased bilinear resampling of a part of a picture, straight into the frame.

The same filter as Pillow's `BILINEAR` (a triangle as wide as a target pixel, at least two source
pixels), in whole numbers: values in 256ths of a level, weights in 65,536ths. No value differs from
Pillow's by more than 1, and all are the same on every machine.

Down the columns, neighbouring bytes of a row take the same weights, so a compiler makes SIMD code
of it; along a row they do not. Therefore `_LANES` target rows are made at once and interleaved, row
by row for every byte, so that along the row, too, equal weights meet neighbouring numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.compiled import compiled

_LANES = 16
_PIXEL = 3 * _LANES
"""Numbers of one pixel of a row: its three colours in every lane."""
_TAPS = 4
"""Source pixels of a target pixel where the picture shrinks to no less than half."""
_ONE = 65536
_NEXT = np.uint64(_PIXEL)
_HALF = np.uint16(128)


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
    assert frame.flags.c_contiguous, "what is drawn into a copy is lost"
    height, width, channels = image.shape
    left, top, right, bottom = crop
    rows, row_weights = _taps(top * height, bottom * height, size[0], height)
    columns, column_weights = _taps(left * width, right * width, size[1], width)
    flat = image.reshape(height, width * channels)
    target = frame.reshape(len(frame), -1)
    _resample(flat, rows, row_weights, columns, column_weights, target, mirrored)


def _taps(
    start: float, stop: float, count: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """First source pixel and weights of each target pixel along one axis.

    Returns:
        int64 `[count]` and uint16 `[count, taps]`, rows of sum 1 in 65,536ths, 0 outside the image.
    """
    support = max((stop - start) / count, 1.0)
    most = math.floor(2 * support) + 1
    first = np.empty(count, np.int64)
    weights = np.zeros((count, max(most, _TAPS)), np.uint16)
    _weigh(start, (stop - start) / count, support, size, first, weights)
    return first, weights


@compiled
def _weigh(start: float, scale: float, support: float, size: int, first: Any, weights: Any) -> None:
    shares = np.empty(weights.shape[1])
    for target in range(len(first)):
        centre = start + (target + 0.5) * scale
        begin = max(int(np.floor(centre - support + 0.5)), 0)
        whole = 0.0
        for tap in range(len(shares)):
            distance = abs(begin + tap + 0.5 - centre) / support
            shares[tap] = max(1.0 - distance, 0.0) if begin + tap < size else 0.0
            whole += shares[tap]
        first[target] = begin
        # Rounding the sums, not the shares, keeps the weights' own sum exact.
        reached, given = 0.0, 0
        for tap in range(len(shares)):
            reached += shares[tap]
            total = int(reached / whole * _ONE + 0.5)
            weights[target, tap] = min(total - given, _ONE - 1)
            given = total


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
    taps = column_weights.shape[1]
    begin = 3 * columns[0]
    end = min(image.shape[1], 3 * (columns[-1] + taps))
    used, made = end - begin, 3 * len(columns)
    lines = np.empty((4, used), np.uint16)
    quarters = np.empty((4, used), np.uint64)
    # What lies right of the image has no weight, but is read.
    source = np.zeros(4 * (used + 3 * taps), np.uint64)
    target = np.empty(_LANES * made, np.uint8)
    words = np.empty((2, made), np.uint64)
    for block in range(0, len(rows), _LANES):
        for lane in range(_LANES):
            row = min(block + lane, len(rows) - 1)
            _down(image[:, begin:end], rows[row], row_weights[row], lines[lane % 4])
            if lane % 4 == 3:
                _pack(lines[0], lines[1], lines[2], lines[3], quarters[lane // 4])
        _interleave(quarters[0], quarters[1], quarters[2], quarters[3], source)
        _along(source.view(np.uint16), columns, column_weights, target, mirrored)
        _separate(target.view(np.uint64), words[0], words[1])
        for lane in range(min(_LANES, len(rows) - block)):
            _unpack(words[lane // 8], 8 * (lane % 8), frame[block + lane, :made])


@compiled
def _down(image: Any, first: int, weights: Any, line: Any) -> None:
    """One row of the target, not yet resampled along itself, in 256ths of a level."""
    line[:] = 0
    for tap in range(len(weights)):
        weight = weights[tap]
        if weight > 0:
            # In two halves no product needs more than 16 bits: twice as many fit in a register.
            high, low = np.uint16(weight >> 8), np.uint16(weight & 255)
            # Slices of equal length, indexed from 0, are what the compiler turns into SIMD.
            source = image[first + tap]
            for i in range(len(line)):
                level = np.uint16(source[i])
                line[i] += np.uint16(level * high) + (np.uint16(level * low) >> np.uint16(8))


@compiled
def _pack(first: Any, second: Any, third: Any, fourth: Any, target: Any) -> None:
    """Interleave four lines: numbers of 16 bits, side by side in words of 64."""
    for i in range(len(target)):
        target[i] = (
            np.uint64(first[i])
            | np.uint64(second[i]) << np.uint64(16)
            | np.uint64(third[i]) << np.uint64(32)
            | np.uint64(fourth[i]) << np.uint64(48)
        )


@compiled
def _interleave(first: Any, second: Any, third: Any, fourth: Any, target: Any) -> None:
    for i in range(len(first)):
        place = np.uint64(4 * i)
        target[place] = first[i]
        target[place + np.uint64(1)] = second[i]
        target[place + np.uint64(2)] = third[i]
        target[place + np.uint64(3)] = fourth[i]


@compiled
def _along(source: Any, columns: Any, weights: Any, target: Any, mirrored: bool) -> None:
    """Resample all lanes along the row: the numbers of a pixel's lanes take the same weights."""
    for x in range(len(columns)):
        place = np.uint64(_PIXEL * (columns[x] - columns[0]))
        goal = np.uint64(_PIXEL * (len(columns) - 1 - x if mirrored else x))
        if weights.shape[1] == _TAPS:
            _add_few(source, place, weights[x], target, goal)
        else:
            _add_many(source, place, weights[x], target, goal)


@compiled
def _add_few(source: Any, place: int, weights: Any, target: Any, goal: int) -> None:
    """What `_add_many` does, for `_TAPS` weights: written out, it becomes SIMD code."""
    one, two = np.uint32(weights[0]), np.uint32(weights[1])
    three, four = np.uint32(weights[2]), np.uint32(weights[3])
    for i in range(_PIXEL):
        at = place + np.uint64(i)
        total = np.uint16((np.uint32(source[at]) * one) >> np.uint32(16))
        total += np.uint16((np.uint32(source[at + _NEXT]) * two) >> np.uint32(16))
        total += np.uint16((np.uint32(source[at + _NEXT + _NEXT]) * three) >> np.uint32(16))
        total += np.uint16((np.uint32(source[at + _NEXT + _NEXT + _NEXT]) * four) >> np.uint32(16))
        target[goal + np.uint64(i)] = np.uint8(np.uint16(total + _HALF) >> np.uint16(8))


@compiled
def _add_many(source: Any, place: int, weights: Any, target: Any, goal: int) -> None:
    for i in range(_PIXEL):
        total = 0
        for tap in range(len(weights)):
            total += source[place + np.uint64(_PIXEL * tap + i)] * np.int64(weights[tap])
        target[goal + np.uint64(i)] = np.uint8((total + (1 << 23)) >> 24)


@compiled
def _separate(words: Any, first: Any, second: Any) -> None:
    for i in range(len(first)):
        first[i] = words[np.uint64(2 * i)]
        second[i] = words[np.uint64(2 * i) + np.uint64(1)]


@compiled
def _unpack(words: Any, shift: int, line: Any) -> None:
    """One of the eight lines of bytes that are interleaved in words of 64 bits."""
    bits = np.uint64(shift)
    for i in range(len(line)):
        line[i] = np.uint8(words[i] >> bits)
