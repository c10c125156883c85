import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from datamodules.order.draws import sample_seed
from datamodules.order.held_out import evaluation_samples
from datamodules.order.plan import GlobalPlan, Position

COUNTS = [5, 17, 1, 30, 8, 12, 3, 24]  # 100 samples


def make(counts=COUNTS, **changes):
    values = {"seed": 3, "partitions": 4, "shuffle_window": 6, "global_batch": 8}
    return GlobalPlan(counts, **{**values, **changes})


def places(samples):
    return [(each.shard, each.number) for each in samples]


def step(plan, position, world_size, accumulation=1):
    return [
        sample
        for rank in range(world_size)
        for batch in plan.micro_batches(position, rank, world_size, accumulation)
        for sample in batch
    ]


def test_an_epoch_takes_every_sample_once():
    plan = make(partitions=5, global_batch=5)
    taken = [place for p in range(5) for place in places(plan.samples(0, p, 0, 20))]
    assert sorted(taken) == [(s, n) for s, count in enumerate(COUNTS) for n in range(count)]


def test_what_does_not_fill_the_partitions_rests_and_rests_differ_by_epoch():
    plan = make(partitions=8, global_batch=8)
    assert plan.samples_per_partition == 12
    epochs = []
    for epoch in range(3):
        taken = [place for p in range(8) for place in places(plan.samples(epoch, p, 0, 12))]
        assert len(set(taken)) == 96
        epochs.append(frozenset(taken))
    assert len(set(epochs)) > 1


@pytest.mark.parametrize("start", [Position(0, 0), Position(0, 11), Position(2, 5)])
def test_every_world_size_sees_the_same_global_batches(start):
    plan = make()
    batches = [step(plan, start, world_size) for world_size in (1, 2, 3, 4)]
    assert len({frozenset(batch) for batch in batches}) == 1
    assert all(len(batch) == 8 for batch in batches)
    assert Counter(each.partition for each in batches[0]) == dict.fromkeys(range(4), 2)


def test_micro_batches_cut_a_ranks_step_in_a_row():
    plan = make()
    whole = plan.micro_batches(Position(1, 3), 1, 2)[0]
    assert [(each.partition, each.index) for each in whole] == [(1, 6), (1, 7), (3, 6), (3, 7)]
    halves = plan.micro_batches(Position(1, 3), 1, 2, accumulation=2)
    assert [len(half) for half in halves] == [2, 2]
    assert halves[0] + halves[1] == whole
    thirds = plan.micro_batches(Position(1, 3), 1, 2, accumulation=3)
    assert [len(third) for third in thirds] == [2, 1, 1]
    assert [sample for third in thirds for sample in third] == whole


@pytest.mark.parametrize("samples_per_task", [1, 10, 1000])
def test_read_tasks_are_the_steps_in_order_over_the_end_of_the_epoch(samples_per_task):
    plan = make()
    assert plan.steps_per_epoch == 12
    start = Position(0, 10)
    position, expected = start, []
    for _ in range(30):
        expected += plan.micro_batches(position, 1, 2)[0]
        position = plan.after(position)
    tasks = plan.read_tasks(1, 2, start, samples_per_task)
    read = [sample for task in islice(tasks, 30) for sample in task.samples]
    length = min(len(read), len(expected))
    assert length >= 100
    assert read[:length] == expected[:length]


def test_a_read_task_tells_its_steps():
    first, second = islice(make().read_tasks(0, 2, Position(0, 10), samples_per_task=12), 2)
    assert (first.epoch, first.start, first.stop, len(first.samples)) == (0, 10, 12, 8)
    assert (second.epoch, second.start, second.stop, len(second.samples)) == (1, 0, 3, 12)


def test_pieces_of_a_partition_are_those_of_the_whole():
    plan = make()
    whole = plan.samples(1, 2, 0, 25)
    for start, stop in ((0, 1), (5, 7), (6, 12), (23, 25)):
        assert plan.samples(1, 2, start, stop) == whole[start:stop]


def test_the_window_shuffles_inside_blocks_only():
    plain, shuffled = (make(shuffle_window=window).samples(0, 1, 0, 25) for window in (1, 6))
    assert plain != shuffled
    for start in range(0, 25, 6):
        block = slice(start, min(start + 6, 25))
        assert sorted(places(plain[block])) == sorted(places(shuffled[block]))
    runs = np.diff([each.number for each in plain])
    assert all(
        run == 1 for run, a, b in zip(runs, plain, plain[1:], strict=False) if a.shard == b.shard
    )


def test_order_depends_on_seed_and_epoch():
    orders = [
        places(make(seed=seed).samples(epoch, 0, 0, 25)) for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_a_sample_draws_by_its_position():
    sample = make().samples(2, 3, 7, 8)[0]
    assert sample.seed == sample_seed(3, 2, 3 * 25 + 7)


def test_positions_are_integers():
    plan = make()
    assert plan.position(25) == Position(2, 1)
    assert plan.after(Position(1, 11)) == Position(2, 0)
    assert Position(**Position(4, 2).as_dict()) == Position(4, 2)


@pytest.mark.parametrize(
    ("counts", "changes", "message"),
    [
        ([], {}, "empty"),
        ([0, 0], {}, "empty"),
        (COUNTS, {"global_batch": 6}, "6 / 4 = 1.5"),
        (COUNTS, {"global_batch": 104}, r"104 samples is more than an epoch has \(100\)"),
    ],
)
def test_impossible_plans_are_refused_with_the_arithmetic(counts, changes, message):
    with pytest.raises(ValueError, match=message):
        make(counts, **changes)


def test_workers_that_do_not_divide_the_partitions_take_one_more_or_less():
    plan = make()
    ranks = [plan.micro_batches(Position(), rank, 3)[0] for rank in range(3)]
    assert [[each.partition for each in rank] for rank in ranks] == [[0, 0, 3, 3], [1, 1], [2, 2]]
    # One image at a time, there is none left where others have their third.
    assert [plan.micro_batch_sizes(rank, 3, 4) for rank in (0, 1)] == [[1] * 4, [1, 1, 0, 0]]
    task = next(plan.read_tasks(0, 3, Position(0, 3), samples_per_task=8))
    assert (task.start, task.stop, len(task.samples)) == (3, 5, 8)


def test_more_workers_than_partitions_are_refused():
    with pytest.raises(ValueError, match=r"5 workers cannot share 4 .* use 4 workers at most"):
        next(make().read_tasks(0, 5, Position()))
    with pytest.raises(ValueError, match=r"5 workers cannot share 4 data partitions"):
        make().micro_batches(Position(), 0, 5)


def test_resuming_deep_in_a_huge_data_set_is_quick():
    started = time.perf_counter()
    plan = GlobalPlan(
        np.full(100_000, 10_000), seed=0, partitions=256, shuffle_window=256, global_batch=1024
    )
    task = next(plan.read_tasks(5, 64, plan.position(1_000_000), samples_per_task=64))
    assert time.perf_counter() - started < 0.5
    assert (task.epoch, task.start) == (1, 1_000_000 - plan.steps_per_epoch)
    assert len(set(task.samples)) == 64


def test_evaluation_takes_every_sample_once_over_all_ranks():
    for world_size in (1, 3):
        ranks = [list(evaluation_samples(COUNTS, r, world_size, seed=0)) for r in range(world_size)]
        taken = sorted(place for rank in ranks for place in places(rank))
        assert taken == [(s, n) for s, count in enumerate(COUNTS) for n in range(count)]
        assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
    assert list(evaluation_samples([], 0, 1, seed=0)) == []


def test_a_part_of_a_held_out_set_is_spread_over_all_of_it():
    whole = list(evaluation_samples(COUNTS, 0, 1, seed=0))
    part = list(evaluation_samples(COUNTS, 0, 1, seed=0, images=4))
    assert part == whole[:: len(whole) // 4][:4]
    ranks = [list(evaluation_samples(COUNTS, rank, 2, seed=0, images=4)) for rank in range(2)]
    assert [sample for pair in zip(*ranks, strict=True) for sample in pair] == part
