"""A mixture gives every set its share, keeps all of it, and leaves its own order alone."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.order.mixture import CYCLE, MixedSet, MixturePlan, cycle_slots

ORDER = {"seed": 5, "partitions": 2, "shuffle_window": 4, "global_batch": 4}
LARGE, SMALL = [10, 20, 6], [3, 4]
"""18 and 3 samples in a partition; the last of the small set's 7 rests each epoch."""


def mixed(large=2.0, small=1.0, **changes):
    sets = [MixedSet("sets/large", LARGE, large), MixedSet("sets/small", SMALL, small)]
    return MixturePlan(sets, **{**ORDER, **changes})


def taken(plan, partition, epochs):
    """Shards, numbers and seeds in the slots of a partition, over some nominal epochs."""
    size = plan.samples_per_partition
    samples = [s for epoch in range(epochs) for s in plan.samples(epoch, partition, 0, size)]
    return [(each.shard, each.number, each.seed) for each in samples]


def own_order(plan, number, partition, count):
    """The first samples of a set's own order, over its own epochs."""
    own, first = plan.plans[number], sum(len(each.counts) for each in plan.sets[:number])
    samples = []
    while len(samples) < count:
        epoch = len(samples) // own.samples_per_partition
        samples += own.samples(epoch, partition, 0, own.samples_per_partition)
    return [(each.shard + first, each.number, each.seed) for each in samples[:count]]


@pytest.mark.parametrize("partition", [0, 1])
def test_each_set_runs_through_its_own_epochs_whatever_the_others_do(partition):
    plan = mixed()
    slots = taken(plan, partition, epochs=120)
    assert len(slots) > 2 * CYCLE
    large = [sample for sample in slots if sample[0] < 3]
    small = [sample for sample in slots if sample[0] >= 3]
    assert large == own_order(plan, 0, partition, len(large))
    assert small == own_order(plan, 1, partition, len(small))
    assert len(small) / len(slots) == pytest.approx(1 / 3, abs=0.01)


def test_a_mixture_keeps_all_of_every_set():
    plan = mixed(partitions=1)
    slots = taken(plan, 0, epochs=30)
    for number, (first, counts) in enumerate(((0, LARGE), (3, SMALL))):
        whole = [(first + shard, n) for shard, count in enumerate(counts) for n in range(count)]
        samples = [s[:2] for s in slots if first <= s[0] < first + len(counts)]
        size = plan.plans[number].samples_per_partition
        epochs = [samples[at : at + size] for at in range(0, len(samples) - size + 1, size)]
        assert len(epochs) > 5
        assert all(sorted(epoch) == whole for epoch in epochs)


def test_nothing_rests_at_the_end_of_a_nominal_epoch():
    plan = mixed(global_batch=8)
    # 43 samples in two partitions are 21, in whole steps of 4 from each: 20.
    assert (plan.samples_per_partition, plan.steps_per_epoch) == (20, 5)
    large = [sample for sample in taken(plan, 1, epochs=4) if sample[0] < 3]
    assert large == own_order(plan, 0, 1, len(large))


def test_a_set_alone_is_ordered_as_its_own_plan():
    plan = MixturePlan([MixedSet("one", LARGE, 3.0)], **ORDER)
    assert taken(plan, 1, epochs=3) == own_order(plan, 0, 1, 54)


def test_sets_of_equal_counts_are_ordered_differently():
    plan = MixturePlan([MixedSet("a", LARGE, 1), MixedSet("b", LARGE, 1)], **ORDER)
    one, other = (own_order(plan, number, 0, 18) for number in (0, 1))
    assert [s[:2] for s in one] != [(shard - 3, number) for shard, number, _ in other]
    assert not {s[2] for s in one} & {s[2] for s in other}


def test_weights_become_slots_by_largest_remainder():
    assert cycle_slots({"a": 3, "b": 1}) == {"a": 768, "b": 256}
    assert cycle_slots({"a": 0.1, "b": 0.1, "c": 0.1}) == {"a": 342, "b": 341, "c": 341}
    assert cycle_slots({"a": 1023.0, "b": 1.0}) == {"a": 1023, "b": 1}
    # 1.5, 1.6 and 1020.9 slots: the two largest remainders take what the whole parts leave.
    assert cycle_slots({"a": 1.5, "b": 1.6, "c": 1020.9}) == {"a": 1, "b": 2, "c": 1021}


def test_a_weight_below_one_slot_is_refused_with_the_arithmetic():
    with pytest.raises(
        ValueError, match=r"b has weight 0\.5 of 1000\.5 in all, which is 0\.512 of"
    ):
        cycle_slots({"a": 1000, "b": 0.5})
    told = r"less than one: give it at least 0\.978"
    with pytest.raises(ValueError, match=told):
        mixed(large=1000, small=0.5)
    assert cycle_slots({"a": 1000, "b": 0.978})["b"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partitions": 8, "global_batch": 8}, "sets/small has 7 samples, too few for the 8 part"),
        ({"global_batch": 44}, r"44 samples is more than an epoch has \(43\)"),
        ({"global_batch": 5}, r"5 / 2 = 2\.5"),
    ],
)
def test_impossible_mixtures_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mixed(**changes)


def test_the_facts_tell_sets_and_shares():
    facts = mixed().facts()
    assert facts["data.seed"] == 5
    assert facts["data.mixture.1"] == "small: 341 of 1024 slots, 7 samples in 2 shards"
    assert mixed(large=4, small=2).facts() == facts
    assert mixed(large=4, small=3).facts() != facts


def test_memory_is_that_of_a_cycle_and_a_window_in_each_partition():
    plan = mixed()
    for epoch in (0, 10**6, 10**9):
        plan.samples(epoch, 1, 0, plan.samples_per_partition)
    kept = [*plan._cycles._latest, *(p for own in plan.plans for p in own._blocks._latest)]
    assert kept == [1, 1, 1]
    assert isinstance(plan.slots, np.ndarray)
