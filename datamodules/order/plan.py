"""The order of samples: a pure function of (seed, epoch, position), the same for every world size.

The data is dealt into `partitions` canonical sequences. A global batch takes the next equal share
of every partition, and of W ranks, rank r takes the whole partitions r, r + W and so on: the same
samples meet in the same step for every number of ranks from 1 to `partitions`. Where the number
does not divide the partitions, some ranks take one partition more than others. Nothing is listed: a
position is arithmetic on the numbers of samples of the shards, so a plan of 10^9 samples resumes at
any step at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.order.blocks import LatestBlocks, runs
from datamodules.order.draws import permutation, sample_seeds
from datamodules.order.shares import even_parts


class Position(NamedTuple):
    """Where a run stands in its data: `step` optimizer steps of epoch `epoch` are done."""

    epoch: int = 0
    step: int = 0

    def as_dict(self) -> dict[str, int]:
        """The position as JSON and checkpoints hold it; `Position(**it)` reads it."""
        return self._asdict()


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One sample in the order."""

    epoch: int
    partition: int
    index: int
    """Its place inside the partition."""
    shard: int
    number: int
    """Its place inside the shard."""
    seed: int
    """Seed of every draw made for it, in [0, 2^63)."""


class ReadTask(NamedTuple):
    """What a rank reads at a stretch: its samples of the steps `start` to `stop - 1`, in order."""

    epoch: int
    start: int
    stop: int
    samples: tuple[PlannedSample, ...]


class Places(NamedTuple):
    """Where samples lie and the seeds of their draws: int64 arrays of one length."""

    shards: NDArray[np.int64]
    numbers: NDArray[np.int64]
    seeds: NDArray[np.int64]


class Plan(ABC):
    """What every order shares: equal shares of all partitions, whole partitions for each rank.

    Attributes:
        seed: seed of the order and of every sample's draws.
        partitions: canonical sequences that the samples are dealt into.
        shuffle_window: samples shuffled together; 1 keeps the order inside shards.
        global_batch: samples that one optimizer step takes from all ranks together.
    """

    def __init__(
        self, samples: int, *, seed: int, partitions: int, shuffle_window: int, global_batch: int
    ) -> None:
        """Refuse what cannot be dealt.

        Raises:
            ValueError: if there is no sample, the partitions do not divide the global batch, or
                the `samples` do not fill one global batch.
        """
        _check(samples, partitions, global_batch)
        self.seed = seed
        self.partitions = partitions
        self.shuffle_window = shuffle_window
        self.global_batch = global_batch

    @property
    @abstractmethod
    def samples_per_partition(self) -> int:
        """Samples of each partition in an epoch."""

    @abstractmethod
    def places(
        self, epoch: int, partitions: NDArray[np.int64], indexes: NDArray[np.int64]
    ) -> Places:
        """Where the samples at `indexes` of `partitions` lie; arrays of one length N."""

    @property
    def partition_share(self) -> int:
        """Samples that each partition gives to a global batch."""
        return self.global_batch // self.partitions

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch; what a last, incomplete one would hold rests."""
        return self.samples_per_partition // self.partition_share

    def facts(self) -> dict[str, int | str]:
        """What the order depends on, as checkpoints hold it and people read it."""
        return {
            "data.seed": self.seed,
            "data.partitions": self.partitions,
            "data.shuffle_window": self.shuffle_window,
            "training.global_batch": self.global_batch,
            "samples in a partition": self.samples_per_partition,
        }

    def after(self, position: Position) -> Position:
        """The position one step later."""
        epoch, step = position
        return Position(epoch, step + 1) if step + 1 < self.steps_per_epoch else Position(epoch + 1)

    def position(self, steps: int) -> Position:
        """The position after `steps` steps from the start."""
        return Position(*divmod(steps, self.steps_per_epoch))

    def samples(self, epoch: int, partition: int, start: int, stop: int) -> list[PlannedSample]:
        """The samples `start` to `stop - 1` of a partition.

        Args:
            epoch: number of the pass over the data, from 0.
            partition: number of the partition.
            start: first place inside the partition.
            stop: place after the last, at most `samples_per_partition`.
        """
        indexes = np.arange(start, stop)
        return self._planned(epoch, np.full_like(indexes, partition), indexes)

    def micro_batches(
        self, position: Position, rank: int, world_size: int, accumulation: int = 1
    ) -> list[list[PlannedSample]]:
        """A rank's part of one global batch, by partition and index, cut in micro-batches.

        Args:
            position: the step to take.
            rank: number of the worker.
            world_size: number of workers.
            accumulation: micro-batches in a step.

        Returns:
            `accumulation` lists of as many samples as `micro_batch_sizes` tells.

        Raises:
            ValueError: if there are more workers than partitions.
        """
        sizes = self.micro_batch_sizes(rank, world_size, accumulation)
        samples = iter(
            self._steps(rank, world_size, position.epoch, position.step, position.step + 1)
        )
        return [list(islice(samples, size)) for size in sizes]

    def micro_batch_sizes(self, rank: int, world_size: int, accumulation: int = 1) -> list[int]:
        """Samples of each micro-batch of a rank's step, as even as can be.

        Every rank has equally many micro-batches. Where they hold one sample each, a rank with a
        partition less than others has some without any.

        Raises:
            ValueError: if there are more workers than partitions.
        """
        self.check_world_size(world_size)
        return even_parts(self._step_size(rank, world_size), accumulation)

    def check_world_size(self, world_size: int) -> None:
        """Make sure that every rank gets a partition.

        Raises:
            ValueError: if there are more workers than partitions.
        """
        if world_size > self.partitions:
            raise ValueError(
                f"{world_size} workers cannot share {self.partitions} data partitions, for each"
                f" takes one at least: use {self.partitions} workers at most, or another"
                " data.partitions in a new run"
            )

    def read_tasks(
        self, rank: int, world_size: int, start: Position, samples_per_task: int = 32
    ) -> Iterator[ReadTask]:
        """What a rank reads from `start` on, without end, in the order that its steps need.

        Args:
            rank: number of the worker.
            world_size: number of workers.
            start: the first step to read.
            samples_per_task: samples in a task, about; a task holds whole steps, at least one.

        Raises:
            ValueError: if there are more workers than partitions.
        """
        self.check_world_size(world_size)
        steps = max(1, samples_per_task // self._step_size(rank, world_size))
        epoch, step = start
        while True:
            while step < self.steps_per_epoch:
                stop = min(step + steps, self.steps_per_epoch)
                samples = self._steps(rank, world_size, epoch, step, stop)
                yield ReadTask(epoch, step, stop, tuple(samples))
                step = stop
            epoch, step = epoch + 1, 0

    def _step_size(self, rank: int, world_size: int) -> int:
        """A rank's samples of one global batch."""
        return len(range(rank, self.partitions, world_size)) * self.partition_share

    def _steps(
        self, rank: int, world_size: int, epoch: int, start: int, stop: int
    ) -> list[PlannedSample]:
        """A rank's samples of the steps `start` to `stop - 1`: by step, partition and index."""
        share = self.partition_share
        own = np.arange(rank, self.partitions, world_size)
        partitions = np.tile(np.repeat(own, share), stop - start)
        indexes = np.tile(
            np.arange(start * share, stop * share).reshape(-1, 1, share), (len(own), 1)
        )
        return self._planned(epoch, partitions, indexes.reshape(-1))

    def _planned(
        self, epoch: int, partitions: NDArray[np.int64], indexes: NDArray[np.int64]
    ) -> list[PlannedSample]:
        columns = (partitions, indexes, *self.places(epoch, partitions, indexes))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [PlannedSample(epoch, *row) for row in rows]


def _check(samples: int, partitions: int, global_batch: int) -> None:
    if samples == 0:
        raise ValueError("the data set is empty: its shards hold no sample")
    if global_batch % partitions:
        raise ValueError(
            f"a global batch of {global_batch} samples cannot take an equal share of {partitions}"
            f" partitions ({global_batch} / {partitions} = {global_batch / partitions:.3g}): make"
            " the global batch a multiple of data.partitions"
        )
    if samples < global_batch:
        raise ValueError(
            f"a global batch of {global_batch} samples is more than an epoch has ({samples}): use"
            " a smaller global batch or more data"
        )


class _ShardOrder(NamedTuple):
    shards: NDArray[np.int64]
    """Shard numbers in an epoch's order."""
    ends: NDArray[np.int64]
    """Samples up to and with each of them."""


class GlobalPlan(Plan):
    """The order of one training data set.

    An epoch puts the shards in an order drawn for it and cuts their samples, end to end, in
    `partitions` equal contiguous pieces; what remains at the end rests this epoch. Inside a
    partition, every block of `shuffle_window` samples is shuffled.
    """

    def __init__(
        self,
        counts: Sequence[int] | NDArray[np.int64],
        *,
        seed: int,
        partitions: int,
        shuffle_window: int,
        global_batch: int,
    ) -> None:
        """Plan the order from `counts`, the samples of each shard; the rest is told by `Plan`."""
        self._counts = np.asarray(counts, np.int64)
        self._total = int(self._counts.sum())
        super().__init__(
            self._total,
            seed=seed,
            partitions=partitions,
            shuffle_window=shuffle_window,
            global_batch=global_batch,
        )
        # Partitions that pass from one epoch to the next at different steps need both.
        self._shard_order = lru_cache(maxsize=2)(self._draw_shard_order)
        self._blocks = LatestBlocks(self._shuffle_block)

    @property
    def samples_per_partition(self) -> int:
        """Samples of each partition in an epoch."""
        return self._total // self.partitions

    def places(
        self, epoch: int, partitions: NDArray[np.int64], indexes: NDArray[np.int64]
    ) -> Places:
        """Where the samples at `indexes` of `partitions` lie; arrays of one length N."""
        order = self._shard_order(epoch)
        first = partitions * self.samples_per_partition
        inside = first + self._shuffled(epoch, partitions, indexes)
        place = np.searchsorted(order.ends, inside, side="right")
        shards = order.shards[place]
        numbers = inside - (order.ends[place] - self._counts[shards])
        return Places(shards, numbers, sample_seeds(self.seed, epoch, first + indexes))

    def _shuffled(
        self, epoch: int, partitions: NDArray[np.int64], indexes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Which samples of the partitions' unshuffled sequences stand at `indexes`."""
        blocks, within = np.divmod(indexes, self.shuffle_window)
        inside = blocks * self.shuffle_window
        for run in runs(partitions, blocks):
            block = self._blocks.get(int(partitions[run.start]), epoch, int(blocks[run.start]))
            inside[run] += block[within[run]]
        return inside

    def _shuffle_block(self, partition: int, epoch: int, block: int) -> NDArray[np.int64]:
        window = self.shuffle_window
        size = min(window, self.samples_per_partition - block * window)
        return permutation(size, self.seed, epoch, 1 + partition, block)

    def _draw_shard_order(self, epoch: int) -> _ShardOrder:
        shards = permutation(len(self._counts), self.seed, epoch, 0)
        return _ShardOrder(shards, np.cumsum(self._counts[shards]))
