"""Counts of values in bins that people read, filled a piece at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_RATIOS = ("1:2", "9:16", "2:3", "3:4", "4:5", "1:1", "5:4", "4:3", "3:2", "16:9", "2:1")


class Bins(NamedTuple):
    """Where bins begin and what they are called; the last has no end."""

    edges: tuple[float, ...]
    labels: tuple[str, ...]


def whole_numbers(starts: Sequence[int]) -> Bins:
    """Bins of whole numbers that begin at the given ones: `4-7`, `8+`."""
    ends = [following - 1 for following in starts[1:]]
    labels = [
        f"{start}" if start == end else f"{start}-{end}"
        for start, end in zip(starts, ends, strict=False)
    ]
    return Bins(tuple(starts), (*labels, f"{starts[-1]}+"))


def shares_by_half_decades(decades: int) -> Bins:
    """Bins of shares, two for each power of ten from `10^-decades` to all of it, in percent."""
    percents = [
        float(f"{digit}e{power}") for power in range(2 - decades, 2) for digit in (1, 3)
    ] + [100.0]
    labels = [f"{low:g}-{high:g}%" for low, high in pairwise(percents)]
    edges = (0.0, *(percent / 100 for percent in percents[:-1]))
    return Bins(edges, (f"<{percents[0]:g}%", *labels))


def aspect_ratios() -> Bins:
    """Bins around the usual shapes of pictures, width to height; the outer ones have no end."""
    values = [int(wide) / int(high) for wide, high in (ratio.split(":") for ratio in _RATIOS)]
    between = np.sqrt(np.array(values[:-1]) * np.array(values[1:]))
    labels = (f"{_RATIOS[0]} or taller", *_RATIOS[1:-1], f"{_RATIOS[-1]} or wider")
    return Bins((0.0, *between.tolist()), labels)


class Histogram:
    """How often values fall in each bin, with their mean and range.

    Args:
        title: what is counted, for people.
        bins: ascending; a value below the first edge falls in the first bin.
        are_shares: whether the values are shares, which people read in percent.
    """

    def __init__(self, title: str, bins: Bins, are_shares: bool = False) -> None:
        self.title = title
        self.are_shares = are_shares
        self.bins = bins
        self.counts: NDArray[np.int64] = np.zeros(len(bins.labels), np.int64)
        self.sum = 0.0
        self.least = float("inf")
        self.greatest = float("-inf")

    def add(self, values: Sequence[float]) -> None:
        """Count some values."""
        if not values:
            return
        numbers = np.searchsorted(self.bins.edges, values, side="right") - 1
        np.add.at(self.counts, np.maximum(numbers, 0), 1)
        self.sum += float(np.sum(values))
        self.least = min(self.least, *values)
        self.greatest = max(self.greatest, *values)

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Their mean; 0 where there is none."""
        return self.sum / max(self.total, 1)

    def rows(self) -> list[tuple[str, int]]:
        """Label and count of each bin, without the empty ones at both ends."""
        filled = np.flatnonzero(self.counts)
        if not len(filled):
            return []
        shown = slice(filled[0], filled[-1] + 1)
        return list(zip(self.bins.labels[shown], self.counts[shown].tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """For machines: every bin with its edge, and the mean and range."""
        return {
            "from": list(self.bins.edges),
            "labels": list(self.bins.labels),
            "counts": self.counts.tolist(),
            "mean": self.mean if self.total else None,
            "min": self.least if self.total else None,
            "max": self.greatest if self.total else None,
        }
