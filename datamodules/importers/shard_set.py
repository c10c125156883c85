"""A data set of shards that another one is made from: one shard of it, one task."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from datamodules.importers.making import SPLITS
from datamodules.importers.shard_tasks import Fault, Outcome, ShardTask
from datamodules.shards.entries import INDEX_NAME
from datamodules.shards.index import DataIndex
from datamodules.shards.provenance import CARD_NAME, check_ended
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import BadSample, RawSample
from datamodules.storage import Location, child, exists, location, read_bytes
from datamodules.vocabulary import Vocabulary

VOCABULARY_NAME = "vocabulary.safetensors"


@dataclass(frozen=True)
class ShardSet:
    """The folder of a data set: `train/`, and `val/` if it has one. It travels by its place."""

    root: Location
    sidecar: Location | None = None
    """Where the priors lie, if not in the shards."""

    @classmethod
    def open(cls, path: str | Location, priors: str | Location | None = None) -> ShardSet:
        """The data set at a path or URL, and the sidecar with its priors.

        Raises:
            ValueError: if the making of one of them has not ended.
        """
        root, sidecar = location(path), None if priors is None else location(priors)
        for folder in (root, sidecar):
            if folder is not None:
                check_ended(folder)
        return cls(root, sidecar)

    def index(self, split: str) -> DataIndex:
        """The samples of a split.

        Raises:
            ValueError: if they are missing or broken, or the sidecar is of other samples.
        """
        return DataIndex.load(self.root / split, self.sidecar and self.sidecar / split)

    def indexes(self) -> dict[str, DataIndex]:
        """The index of each split.

        Raises:
            ValueError: if there is none to learn from, or one is broken.
        """
        splits = [s for s in SPLITS if s == "train" or exists(self.root / s / INDEX_NAME)]
        return {split: self.index(split) for split in splits}

    @property
    def source(self) -> str:
        """What the data set was made from."""
        return str(_card(self.root).get("source", "shards"))

    @property
    def priors(self) -> str:
        """Where its concept priors come from."""
        return str(_card(self.sidecar or self.root).get("priors", "unknown"))

    def vocabulary(self) -> Vocabulary | None:
        """The concepts beside the priors, or else the shards; None where there are none.

        Raises:
            ValueError: if they are broken.
        """
        for folder in (self.sidecar, self.root):
            if folder is not None and exists(folder / VOCABULARY_NAME):
                return Vocabulary.load(folder / VOCABULARY_NAME)
        return None

    def tasks(self) -> list[ShardTask]:
        """One task for each shard; its work is the shard's split and number."""
        return [
            ShardTask(split, shard, int(count), (split, shard))
            for split, index in self.indexes().items()
            for shard, count in enumerate(index.counts)
        ]

    def outcomes(
        self, work: tuple[str, int], make: Callable[[RawSample], Outcome]
    ) -> Iterator[Outcome]:
        """What the samples of a shard become, in order; what is bad is listed.

        Args:
            work: split and number of the shard.
            make: the outcome of a sample that could be read; ValueError where it is broken.

        Raises:
            StoreError: if the shard is there and cannot be read now.
        """
        split, shard = work
        index = self.index(split)
        with ShardReader(index) as reader:
            for number in range(int(index.counts[shard])):
                raw = reader.read(shard, number)
                if isinstance(raw, BadSample):
                    fault = _fault(split, raw, raw.reason)
                    # What cannot be read may be there again, unchanged, next time.
                    yield Outcome(None, faults=[fault], watch={str(index.path(shard)): None})
                    continue
                try:
                    yield make(raw)
                except ValueError as error:
                    yield Outcome(None, faults=[_fault(split, raw, str(error))])


def read_priors(data: bytes, regions: int) -> NDArray[np.float16]:
    """The rows of `KEY.priors.npy`, of whatever width; pickles are refused.

    Raises:
        ValueError: if it is not one row of floats for each region.
    """
    rows: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if rows.ndim != 2 or len(rows) != regions or rows.dtype.kind != "f":
        raise ValueError(
            f"the priors have shape {list(rows.shape)} and type {rows.dtype}, the annotation has"
            f" {regions} regions"
        )
    return rows.astype(np.float16)


def _card(folder: Location) -> dict[str, Any]:
    """What `dataset.json` says; nothing where there is none."""
    place = folder / CARD_NAME
    card: dict[str, Any] = orjson.loads(read_bytes(place)) if exists(place) else {}
    return card


def _fault(split: str, sample: RawSample | BadSample, reason: str) -> Fault:
    return Fault(str(child(Path(split), sample.shard)), sample.key, None, reason)
