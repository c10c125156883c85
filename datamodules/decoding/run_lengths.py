"""COCO's run-length encoding: background first, down the columns; plain, or compressed to text.

The compressed form tells a run by characters of six bits: five of the number, lowest first, and one
that tells whether more follow; from the fourth run on, the number is the difference from the run
before the previous one. What a file says is taken for a claim: every number is checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding import coverage

_MOST_CHARACTERS = 13
"""Characters of 5 bits that any number of 64 needs."""


def run_lengths(segmentation: Any, height: int, width: int) -> NDArray[np.int64]:
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
    text = text_of(segmentation, height, width)
    runs = np.empty(len(text), np.int64)
    count = coverage.read_runs(np.frombuffer(text, np.uint8), runs, height * width)
    if count == coverage.BROKEN:
        raise broken_counts(height, width)
    return runs[:count]


def text_of(segmentation: Any, height: int, width: int) -> bytes:
    """The compressed counts of a COCO mask, not read yet; plain counts are compressed.

    Raises:
        ValueError: if it is no encoding, or not of an image of that size.
    """
    try:
        size, counts = segmentation["size"], segmentation["counts"]
        fits = len(size) == 2 and size[0] == height and size[1] == width
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError("the mask is not a run-length encoding with size and counts") from error
    if not fits:
        raise ValueError(f"the mask is of size {size!r:.40}, the image of [{height}, {width}]")
    if isinstance(counts, str):
        return counts.encode()
    if isinstance(counts, bytes):
        return counts
    if isinstance(counts, list):
        return _compressed(_checked_runs(counts, height * width))
    raise ValueError("the mask's counts are neither text nor a list")


def broken_counts(height: int, width: int) -> ValueError:
    """The error that tells of counts that cannot be read."""
    return ValueError(f"the mask's compressed counts do not tell {height} x {width} pixels")


def _checked_runs(counts: list[Any], pixels: int) -> NDArray[np.int64]:
    if set(map(type, counts)) != {int}:
        raise ValueError("the mask's counts are not a list of integers")
    if min(counts) < 0 or max(counts) > pixels or sum(counts) != pixels:
        raise ValueError(f"the mask's counts do not tell {pixels} pixels")
    return np.array(counts, np.int64)


def _compressed(runs: NDArray[np.int64]) -> bytes:
    text = np.empty(_MOST_CHARACTERS * len(runs), np.uint8)
    return text[: coverage.write_runs(runs, text)].tobytes()
