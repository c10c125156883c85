"""The priors of one shard: crops go to a teacher in batches, its answers come back as rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from datamodules.priors.crops import CropRule, crop_regions
from datamodules.shards.index import SampleIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import BadSample

Ticket = TypeVar("Ticket")

BATCHES_IN_FLIGHT = 3
"""Batches that a reader has asked for and not yet had answered, at most."""


class Teacher(Protocol[Ticket]):
    """Something that embeds crops, now or later."""

    def ask(self, crops: NDArray[np.uint8], images: int) -> Ticket:
        """Hand over a batch.

        Args:
            crops: uint8 `[n, S, S, 3]` RGB.
            images: samples that were read for it, to tell how far the work is.
        """

    def answer(self, ticket: Ticket) -> NDArray[np.float16]:
        """Wait for the unit embeddings of a batch, float16 `[n, D]`."""


@dataclass(slots=True)
class ShardPriors:
    """What a teacher says of one shard."""

    keys: list[str] = field(default_factory=list)
    """All samples, in the order of the shard."""
    priors: list[NDArray[np.float16] | None] = field(default_factory=list)
    """For each key `[regions, D]`, in the order of the annotations; None for a bad sample."""
    bad: list[BadSample] = field(default_factory=list)
    """Samples that could not be read."""
    without: int = 0
    """Regions of good samples that there is nothing to show of: their rows are zero."""

    @property
    def regions(self) -> int:
        """Regions of good samples."""
        return sum(len(rows) for rows in self.priors if rows is not None)


class _Pending(NamedTuple, Generic[Ticket]):
    ticket: Ticket
    rows: list[NDArray[np.float16]]
    """Where the answers go, each `[D]`."""


class _Batches(Generic[Ticket]):
    """Fills batches with crops and keeps a few of them with the teacher."""

    def __init__(self, teacher: Teacher[Ticket], size: int) -> None:
        self._teacher = teacher
        self._size = size
        self._crops: list[NDArray[np.uint8]] = []
        self._rows: list[NDArray[np.float16]] = []
        self._pending: deque[_Pending[Ticket]] = deque()
        self._images = 0

    def next_image(self) -> None:
        """Count a sample."""
        self._images += 1

    def add(self, crop: NDArray[np.uint8], row: NDArray[np.float16]) -> None:
        """Have a crop embedded; its row is written when the teacher has answered."""
        self._crops.append(crop)
        self._rows.append(row)
        if len(self._crops) == self._size:
            self._ask()

    def finish(self) -> None:
        """Wait for everything."""
        if self._crops:
            self._ask()
        while self._pending:
            self._take()

    def _ask(self) -> None:
        if len(self._pending) == BATCHES_IN_FLIGHT:
            self._take()
        ticket = self._teacher.ask(np.stack(self._crops), self._images)
        self._pending.append(_Pending(ticket, self._rows))
        self._crops, self._rows, self._images = [], [], 0

    def _take(self) -> None:
        pending = self._pending.popleft()
        for row, embedding in zip(pending.rows, self._teacher.answer(pending.ticket), strict=True):
            row[:] = embedding


def embed_shard(
    index: SampleIndex,
    shard: int,
    rule: CropRule,
    teacher: Teacher[Ticket],
    width: int,
    batch: int,
) -> ShardPriors:
    """Embed every region of a shard.

    Batches hold the shard's regions in order, all full but the last: the same whoever reads and
    whoever embeds, so the embeddings are the same to the bit.

    Args:
        index: the data set.
        shard: number of the shard.
        rule: how regions become pictures.
        teacher: who embeds them.
        width: D of its embeddings.
        batch: regions embedded at once.
    """
    done = ShardPriors()
    batches = _Batches(teacher, batch)
    for key, crops in _crops_of(index, shard, rule):
        batches.next_image()
        done.keys.append(key)
        if isinstance(crops, BadSample):
            done.bad.append(crops)
            done.priors.append(None)
            continue
        rows = np.zeros((len(crops), width), np.float16)
        done.priors.append(rows)
        for crop, row in zip(crops, rows, strict=True):
            if crop is None:
                done.without += 1
            else:
                batches.add(crop, row)
    batches.finish()
    return done


def _crops_of(
    index: SampleIndex, shard: int, rule: CropRule
) -> Iterator[tuple[str, list[NDArray[np.uint8] | None] | BadSample]]:
    """Each sample's key with its crops, or why it has none."""
    for raw in read_samples(index, shard, range(int(index.counts[shard]))):
        if isinstance(raw, BadSample):
            yield raw.key, raw
            continue
        try:
            yield raw.key, crop_regions(raw, rule)
        except ValueError as error:
            yield raw.key, BadSample(raw.shard, raw.key, str(error))
