"""Several indexes as one: shard numbers run on from set to set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.shards.entries import Members
from datamodules.shards.index import SampleIndex
from datamodules.storage import Location


class JoinedIndex:
    """The samples of several data sets, in the order of the sets.

    Args:
        indexes: the sets' own indexes, at least one.
        labels: what stands before the shard names of each set, such as its folder: shards of
            different sets often have equal names. None leaves the names as they are.
    """

    def __init__(self, indexes: Sequence[SampleIndex], labels: Sequence[str] | None = None) -> None:
        self.indexes = tuple(indexes)
        self.labels = None if labels is None else tuple(labels)
        shards = np.array([len(index.counts) for index in indexes])
        self._first_shards = np.cumsum(shards) - shards
        self._samples = sum(len(index) for index in indexes)

    def __len__(self) -> int:
        return self._samples

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedIndex, (self.indexes, self.labels)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Label and name of each shard."""
        if self.labels is None:
            return tuple(name for index in self.indexes for name in index.names)
        return tuple(
            name if "://" in name or name.startswith("/") else f"{label}/{name}"
            for label, index in zip(self.labels, self.indexes, strict=True)
            for name in index.names
        )

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each shard, `[shards]`."""
        return np.concatenate([index.counts for index in self.indexes])

    @cached_property
    def sha256(self) -> str:
        """Hash of the sets' own, in their order."""
        return hashlib.sha256("\n".join(each.sha256 for each in self.indexes).encode()).hexdigest()

    def path(self, shard: int) -> Location:
        """The tar that holds a shard's images and annotations."""
        index, own = self._find(shard)
        return index.path(own)

    def members(self, shard: int, number: int) -> Members:
        """Where the members of sample `number` of a shard lie."""
        index, own = self._find(shard)
        return index.members(own, number)

    def priors_path(self, shard: int) -> Location:
        """The tar that `Members.priors` points into: the shard itself, or its sidecar."""
        index, own = self._find(shard)
        return index.priors_path(own)

    def _find(self, shard: int) -> tuple[SampleIndex, int]:
        """The index of a shard, and its number there; sets without a shard are passed over."""
        number = int(np.searchsorted(self._first_shards, shard, side="right")) - 1
        return self.indexes[number], shard - int(self._first_shards[number])
