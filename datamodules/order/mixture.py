"""The order of a mixture of data sets by weights: arithmetic on top of the sets' own orders.

Every partition is a sequence of slots without end, in cycles of `CYCLE`. The weights become whole
numbers of slots of a cycle, the same in every cycle; which slots are whose is drawn for each cycle
of each partition. The n-th slot of a set takes the n-th sample of the set's own order in that
partition, and a set that has ended begins its next epoch: each runs through its own epochs, keeps
all of its samples, and knows nothing of the others. The number of a set's slots before any slot is
(cycles before) x (its slots in a cycle) + a count inside one cycle, so nothing is listed here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.order.blocks import LatestBlocks, runs
from datamodules.order.draws import derived_seed, permutation
from datamodules.order.plan import GlobalPlan, Places, Plan

CYCLE = 1024
"""Slots of a cycle: the shares of the sets are exact in each, and are multiples of 1 / CYCLE."""


class MixedSet(NamedTuple):
    """A data set of a mixture."""

    name: str
    """What people call it; the order does not depend on it."""
    counts: Sequence[int] | NDArray[np.int64]
    """Samples of each of its shards."""
    weight: float
    """Its share of the slots, relative to the others; above 0."""


class _Cycle(NamedTuple):
    """The slots of one cycle of one partition: two int64 arrays `[CYCLE]`."""

    sets: NDArray[np.int64]
    """The set of each slot."""
    before: NDArray[np.int64]
    """Slots of the same set before each slot, in this cycle."""


def cycle_slots(weights: Mapping[str, float]) -> dict[str, int]:
    """Slots of a cycle for each set, by largest remainder: they differ by less than 1 from ideal.

    Args:
        weights: weight of each set, above 0.

    Raises:
        ValueError: if a weight comes to less than one slot.
    """
    total = sum(weights.values())
    ideal = {name: round(weight / total * CYCLE, 9) for name, weight in weights.items()}
    for name, slots in ideal.items():
        if slots < 1:
            raise ValueError(
                f"data.mixture: {name} has weight {weights[name]:g} of {total:g} in all, which is"
                f" {slots:.3g} of the {CYCLE} slots of a cycle, less than one: give it at least"
                f" {(total - weights[name]) / (CYCLE - 1):.3g}, or leave it out"
            )
    whole = {name: int(slots) for name, slots in ideal.items()}
    by_remainder = sorted(ideal, key=lambda name: whole[name] - ideal[name])
    for name in by_remainder[: CYCLE - sum(whole.values())]:
        whole[name] += 1
    return whole


class MixturePlan(Plan):
    """The order of several training data sets, mixed by weights.

    Shard numbers run on from set to set. An epoch of the mixture is nominal: as many samples as
    the sets have together, in whole global batches; it is a measure of length, at whose end nothing
    rests and nothing begins anew. A set with half of the weight and a tenth of the samples runs
    through five of its own epochs in it.
    """

    def __init__(
        self,
        sets: Sequence[MixedSet],
        *,
        seed: int,
        partitions: int,
        shuffle_window: int,
        global_batch: int,
    ) -> None:
        """Plan the order.

        Args:
            sets: the data sets, at least one; names differ.
            seed: seed of the order; that of each set is derived from it and the set's number.
            partitions: canonical sequences that the samples of every set are dealt into.
            shuffle_window: samples of a set shuffled together; 1 keeps the order inside shards.
            global_batch: samples that one optimizer step takes from all ranks together.

        Raises:
            ValueError: if a set has fewer samples than partitions, a weight is too small, the
                partitions do not divide the global batch, or all sets do not fill one.
        """
        self.sets = tuple(sets)
        self.slots = np.array([*cycle_slots({s.name: s.weight for s in sets}).values()], np.int64)
        """Slots of each set in a cycle."""
        self.plans = tuple(
            _plan_of(each, derived_seed(seed, number), partitions, shuffle_window)
            for number, each in enumerate(sets)
        )
        """Each set's own order."""
        shards = np.array([len(each.counts) for each in sets])
        self._first_shards = np.cumsum(shards) - shards
        self._total = sum(int(np.sum(each.counts)) for each in sets)
        super().__init__(
            self._total,
            seed=seed,
            partitions=partitions,
            shuffle_window=shuffle_window,
            global_batch=global_batch,
        )
        self._cycles = LatestBlocks(self._deal_cycle)

    @property
    def samples_per_partition(self) -> int:
        """Slots of each partition in a nominal epoch, all of which are taken."""
        share = self.partition_share
        return self._total // self.partitions // share * share

    def facts(self) -> dict[str, int | str]:
        """What the order depends on: the sets and their slots as well."""
        mixed = {
            f"data.mixture.{number}": f"{PurePosixPath(each.name).name}: {slots} of {CYCLE} slots,"
            f" {int(np.sum(each.counts))} samples in {len(each.counts)} shards"
            for number, (each, slots) in enumerate(zip(self.sets, self.slots, strict=True))
        }
        return super().facts() | mixed

    def places(
        self, epoch: int, partitions: NDArray[np.int64], indexes: NDArray[np.int64]
    ) -> Places:
        """Where the samples in the slots `indexes` of `partitions` lie; arrays of one length N."""
        sets, taken = self._slots(partitions, epoch * self.samples_per_partition + indexes)
        places = Places(*np.empty((3, len(indexes)), np.int64))
        for number, plan in enumerate(self.plans):
            chosen = np.flatnonzero(sets == number)
            epochs, inside = np.divmod(taken[chosen], plan.samples_per_partition)
            for own_epoch in np.unique(epochs).tolist():
                now = epochs == own_epoch
                slots = chosen[now]
                found = plan.places(own_epoch, partitions[slots], inside[now])
                places.shards[slots] = found.shards + self._first_shards[number]
                places.numbers[slots] = found.numbers
                places.seeds[slots] = found.seeds
        return places

    def _slots(
        self, partitions: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The set of each slot, and how many of that set's samples its partition gave before it."""
        cycles, within = np.divmod(slots, CYCLE)
        sets, before = np.empty_like(slots), np.empty_like(slots)
        for run in runs(partitions, cycles):
            cycle = self._cycles.get(int(partitions[run.start]), int(cycles[run.start]))
            sets[run] = cycle.sets[within[run]]
            before[run] = cycle.before[within[run]]
        return sets, cycles * self.slots[sets] + before

    def _deal_cycle(self, partition: int, cycle: int) -> _Cycle:
        in_turn = np.repeat(np.arange(len(self.slots)), self.slots)
        sets = in_turn[permutation(CYCLE, self.seed, partition, cycle)]
        before = np.empty_like(sets)
        before[np.argsort(sets, kind="stable")] = np.concatenate([np.arange(n) for n in self.slots])
        return _Cycle(sets, before)


def _plan_of(each: MixedSet, seed: int, partitions: int, shuffle_window: int) -> GlobalPlan:
    samples = int(np.sum(each.counts))
    if samples < partitions:
        raise ValueError(
            f"data.mixture: {each.name} has {samples} samples, too few for the {partitions}"
            " partitions of data.partitions: each takes one at least"
        )
    return GlobalPlan(
        each.counts,
        seed=seed,
        partitions=partitions,
        shuffle_window=shuffle_window,
        global_batch=partitions,
    )
