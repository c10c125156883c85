"""Raw samples in the plan's order, read by this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.order.plan import PlannedSample
from datamodules.shards.index import SampleIndex
from datamodules.shards.joined import JoinedIndex
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import BadSample, RawSample
from datamodules.stream.ordered import in_order
from datamodules.stream.packing import PackedSample

REMOTE_READS = 16
"""Requests to an object store at once: each takes tens of milliseconds, and hardly any CPU."""


class SeededSample(NamedTuple):
    """A sample, with the seed of its draws, on its way to be decoded."""

    seed: int
    sample: RawSample | PackedSample | BadSample


def read_here(index: SampleIndex, samples: Iterable[PlannedSample]) -> Iterator[SeededSample]:
    """Read samples in this process: in threads, ahead, where they lie in an object store."""
    with ShardReader(index) as reader:

        def read(planned: PlannedSample) -> SeededSample:
            return SeededSample(planned.seed, reader.read(planned.shard, planned.number))

        if is_remote(index):
            yield from in_order(read, samples, REMOTE_READS, REMOTE_READS, "read")
        else:
            yield from map(read, samples)


def is_remote(index: SampleIndex) -> bool:
    """Whether a set, or the priors of one, lies in an object store; its first shard tells."""
    sets = index.indexes if isinstance(index, JoinedIndex) else (index,)
    places = [place for each in sets if len(each) for place in (each.path(0), each.priors_path(0))]
    return not all(isinstance(place, Path) for place in places)
