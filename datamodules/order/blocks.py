"""Blocks of an order that are made once and walked through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class LatestBlocks(Generic[T]):
    """The block that was asked for last in each partition, so that a walk makes each block once."""

    def __init__(self, make: Callable[..., T]) -> None:
        """Keep nothing yet.

        Args:
            make: makes the block of a partition and a key; a pure function.
        """
        self._make = make
        self._latest: dict[int, tuple[tuple[int, ...], T]] = {}

    def get(self, partition: int, *key: int) -> T:
        """The block of a partition and a key."""
        latest = self._latest.get(partition)
        if latest is None or latest[0] != key:
            latest = self._latest[partition] = key, self._make(partition, *key)
        return latest[1]


def runs(partitions: NDArray[np.int64], blocks: NDArray[np.int64]) -> Iterator[slice]:
    """The stretches of two arrays of one length over which neither changes, in order."""
    changes = np.diff(partitions) != 0
    changes |= np.diff(blocks) != 0
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(blocks)]
    return (slice(a, b) for a, b in pairwise(edges) if a < b)
