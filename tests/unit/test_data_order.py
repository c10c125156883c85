"""What holds for every order of samples, of one data set and of a mixture."""

from __future__ import annotations

import hashlib
import time
import tracemalloc
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order.mixture import CYCLE, MixedSet, MixturePlan
from datamodules.order.plan import GlobalPlan, Position

COUNTS = [5, 17, 1, 30, 8, 12, 3, 24]
GOLDEN = "73af1f168850a9256ccfd117f7c5c12746eed16678be0c3041b97fad11156ede"
STEPS = 40
"""Steps that the tests below look at: over the end of an epoch."""


def one_set(**changes):
    values = {"seed": 3, "partitions": 4, "shuffle_window": 6, "global_batch": 8, **changes}
    return GlobalPlan(COUNTS, **values)


def mixture(**changes):
    sets = [MixedSet("a", COUNTS, 2), MixedSet("b", [9, 0, 5], 1), MixedSet("c", [40], 0.5)]
    values = {"seed": 3, "partitions": 4, "shuffle_window": 6, "global_batch": 8, **changes}
    return MixturePlan(sets, **values)


PLANS = pytest.mark.parametrize("make", [one_set, mixture])


def batch_of(plan, position, world_size=1, accumulation=1):
    """The samples of a global batch, from all ranks."""
    ranks = (plan.micro_batches(position, r, world_size, accumulation) for r in range(world_size))
    return [sample for rank in ranks for batch in rank for sample in batch]


def batches(plan, start=0, steps=STEPS):
    """The global batches of some steps."""
    return [batch_of(plan, plan.position(step)) for step in range(start, start + steps)]


def read(plan, rank, world_size, start, samples):
    """The first samples that a rank reads from a step on."""
    tasks = plan.read_tasks(rank, world_size, plan.position(start), samples_per_task=12)
    return list(islice(chain.from_iterable(task.samples for task in tasks), samples))


def places(samples):
    return [(each.shard, each.number, each.seed) for each in samples]


def test_the_order_of_one_set_is_the_one_that_checkpoints_were_written_with():
    assert (
        hashlib.sha256(repr(places(read(one_set(), 0, 1, 0, 300))).encode()).hexdigest() == GOLDEN
    )


@PLANS
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_world_size_sees_the_same_global_batches(make, world_size):
    plan = make()
    assert plan.steps_per_epoch < STEPS
    for step, alone in enumerate(batches(plan)):
        together = batch_of(plan, plan.position(step), world_size)
        assert len(together) == 8
        assert set(together) == set(alone)


@PLANS
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_after_a_kill_at_any_step_the_rest_is_the_same(make, world_size):
    for rank in range(world_size):
        per_step = len(range(rank, 4, world_size)) * 2
        whole = read(make(), rank, world_size, 0, STEPS * per_step)
        for step in range(STEPS):
            left = (STEPS - step) * per_step
            assert read(make(), rank, world_size, step, left) == whole[step * per_step :]


@PLANS
def test_epochs_differ_and_can_be_repeated(make):
    plan = make()
    length = plan.steps_per_epoch
    first, second = batches(plan, 0, length), batches(plan, length, length)
    one, other = ([places(batch) for batch in epoch] for epoch in (first, second))
    assert all(a != b for a, b in zip(one, other, strict=True))
    again = make()
    assert batches(again, length, length) == second
    assert batches(again, 0, length) == first


@PLANS
def test_another_seed_is_another_order(make):
    assert [places(b) for b in batches(make())] != [places(b) for b in batches(make(seed=4))]


def paper_scale(shards=100_000, samples=10_000, **changes):
    order = {"seed": 0, "partitions": 256, "shuffle_window": 256, "global_batch": 256, **changes}
    return GlobalPlan(np.full(shards, samples), **order)


def paper_mixture():
    sets = [
        MixedSet("billion", np.full(100_000, 10_000), 0.7),
        MixedSet("million", np.full(100, 10_000), 0.3),
    ]
    return MixturePlan(sets, seed=0, partitions=256, shuffle_window=256, global_batch=256)


@pytest.mark.parametrize("make", [paper_scale, paper_mixture])
@pytest.mark.parametrize("world_size", [1, 256])
def test_a_billion_samples_resume_at_the_millionth_step_at_once(make, world_size):
    tracemalloc.start()
    started = time.perf_counter()
    plan = make()
    task = next(plan.read_tasks(0, world_size, plan.position(10**6)))
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert task.epoch * plan.steps_per_epoch + task.start == 10**6
    assert len({(each.shard, each.number) for each in task.samples}) == len(task.samples) >= 32
    # One number a sample would be 8 GB: numbers of the shards and of the blocks in use are nothing.
    assert peak < 8 * 10**9 / 100
    assert seconds < 5
    print(f"\nresume at step 10^6 of 10^9 samples: {seconds:.3f} s, {peak / 1e6:.1f} MB")


@st.composite
def plans(draw):
    """Small plans of both kinds, of any shape."""
    partitions = draw(st.sampled_from([1, 2, 4, 8]))
    order = {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "partitions": partitions,
        "shuffle_window": draw(st.integers(1, 20)),
        "global_batch": partitions * draw(st.integers(1, 3)),
    }
    fitting = st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(
        lambda counts: sum(counts) >= order["global_batch"]
    )
    if draw(st.booleans()):
        return GlobalPlan(draw(fitting), **order)
    weights = draw(st.lists(st.floats(0.01, 1), min_size=1, max_size=3))
    sets = [MixedSet(str(number), draw(fitting), weight) for number, weight in enumerate(weights)]
    return MixturePlan(sets, **order)


@settings(deadline=None, max_examples=60)
@given(plan=plans(), start=st.integers(0, 60), data=st.data())
def test_every_plan_deals_every_sample_as_it_promises(plan, start, data):
    # An epoch's samples of all partitions are distinct: their draws always, and in a set of its own
    # their places.
    epoch = data.draw(st.integers(0, 3))
    size = plan.samples_per_partition
    dealt = [s for p in range(plan.partitions) for s in plan.samples(epoch, p, 0, size)]
    assert len({sample.seed for sample in dealt}) == len(dealt) == size * plan.partitions
    if isinstance(plan, GlobalPlan):
        assert len({(sample.shard, sample.number) for sample in dealt}) == len(dealt)

    # Positions count the steps.
    position = plan.position(start)
    assert position.epoch * plan.steps_per_epoch + position.step == start
    assert plan.after(position) == plan.position(start + 1)
    assert Position(**position.as_dict()) == position

    # World sizes agree, and micro-batches cut a rank's part of a global batch evenly.
    world_size = data.draw(st.integers(1, plan.partitions))
    accumulation = data.draw(st.integers(1, plan.global_batch))
    alone = batch_of(plan, position)
    assert len(set(alone)) == plan.global_batch
    together = batch_of(plan, position, world_size, accumulation)
    assert len(together) == plan.global_batch
    assert set(together) == set(alone)
    for rank in range(world_size):
        (part,) = plan.micro_batches(position, rank, world_size)
        cut = plan.micro_batches(position, rank, world_size, accumulation)
        assert list(chain.from_iterable(cut)) == part
        assert len(cut) == accumulation
        assert max(map(len, cut)) - min(map(len, cut)) <= 1
        assert {s.partition for s in part} == set(range(rank, plan.partitions, world_size))

        # What is read ahead is what the steps take.
        following = (plan.position(start + step) for step in range(5))
        taken = [s for p in following for s in plan.micro_batches(p, rank, world_size)[0]]
        assert read(plan, rank, world_size, start, 5 * len(part)) == taken


@settings(deadline=None)
@given(
    partitions=st.integers(1, 64),
    share=st.integers(1, 8),
    world_size=st.integers(1, 64),
    micro_batch=st.integers(2, 64),
)
def test_no_worker_is_without_images_unless_they_are_taken_one_by_one(
    partitions, share, world_size, micro_batch
):
    world_size = min(world_size, partitions)
    order = {"seed": 0, "partitions": partitions, "shuffle_window": 1}
    plan = GlobalPlan([10_000], **order, global_batch=partitions * share)
    most = sum(plan.micro_batch_sizes(0, world_size))
    accumulation = -(-most // micro_batch)
    for rank in range(world_size):
        sizes = plan.micro_batch_sizes(rank, world_size, accumulation)
        assert 1 <= min(sizes) <= max(sizes) <= micro_batch


@settings(deadline=None, max_examples=30)
@given(
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
    partition=st.integers(0, 3),
    first=st.integers(0, 3),
)
def test_shares_are_exact_in_every_cycle(weights, partition, first):
    sets = [MixedSet(str(number), [40], weight) for number, weight in enumerate(weights)]
    plan = MixturePlan(sets, seed=1, partitions=4, shuffle_window=6, global_batch=4)
    ideal = np.array(weights) / sum(weights) * CYCLE
    assert plan.slots.sum() == CYCLE
    assert np.abs(plan.slots - ideal).max() < 1
    # The sets have one shard each, so that a shard's number is its set's.
    slots = slot_samples(plan, partition, first * CYCLE, (first + 1) * CYCLE)
    taken = np.bincount([sample.shard for sample in slots], minlength=len(sets))
    assert taken.tolist() == plan.slots.tolist()


def slot_samples(plan, partition, start, stop):
    """What stands in the slots of a partition, counted from the start of the run."""
    size = plan.samples_per_partition
    epochs = range(start // size, -(-stop // size))
    whole = [sample for epoch in epochs for sample in plan.samples(epoch, partition, 0, size)]
    offset = epochs.start * size
    return whole[start - offset : stop - offset]
