import hashlib
import threading
from collections import Counter
from dataclasses import fields
from itertools import groupby
from types import SimpleNamespace

import pytest
import torch
from small_runs import batches_of, datamodule, events_of, make_run, small_job, write_folder

from datamodules.shards.index import DataIndex
from datamodules.stream.prefetch import Prefetch
from datamodules.stream.quarantine import TooManyBadSamplesError
from tap_platform.launch.worker_entry import Place, build_streams
from tap_platform.runs.events import read_events


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """26 samples: 6 in each of 4 partitions, 2 rest."""
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def events(tmp_path):
    return events_of(make_run(tmp_path))


def job_of(folder, steps=6, micro_batch=None, **data):
    training = {"max_steps": steps, "micro_batch": micro_batch}
    return small_job(folder, training=training, data=data)


def images(batch):
    """Everything of each image: where it stands, what was drawn for it, its pixels and regions."""
    for number, key in enumerate(batch.keys):
        own = (batch.image_index == number) & (batch.weights > 0)
        content = [batch.pixels[number], batch.masks[own], batch.boxes[own], batch.priors[own]]
        digest = hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in content))
        yield key, int(batch.seeds[number]), tuple(batch.concepts[own].tolist()), digest.hexdigest()


def by_step(rank_batches, accumulation=1):
    """The images of each step, in order, of one rank."""
    numbered = groupby(enumerate(rank_batches), lambda pair: pair[0] // accumulation)
    return [[i for _, batch in pairs for i in images(batch)] for _, pairs in numbered]


def assert_equal_batches(batches, expected):
    assert len(batches) == len(expected) > 0
    for one, other in zip(batches, expected, strict=True):
        for field in fields(one):
            value, wanted = getattr(one, field.name), getattr(other, field.name)
            same = torch.equal(value, wanted) if torch.is_tensor(value) else value == wanted
            assert same, field.name


@pytest.mark.parametrize(("world_size", "micro_batch"), [(2, None), (4, None), (2, 1), (1, 2)])
def test_every_number_of_ranks_sees_the_same_global_batches(
    folder, events, world_size, micro_batch
):
    alone = by_step(batches_of(job_of(folder, 8), events))
    training = {"max_steps": 8, "micro_batch": micro_batch}
    job = small_job(folder, training=training, scale={"workers": world_size})
    ranks = [
        by_step(batches_of(job, events, rank, world_size), job.accumulation)
        for rank in range(world_size)
    ]
    assert [len(rank) for rank in ranks] == [8] * world_size
    for number, step in enumerate(alone):
        together = [image for rank in ranks for image in rank[number]]
        assert len(step) == 4
        assert Counter(together) == Counter(step)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_resuming_inside_an_epoch_gives_the_equal_tail(folder, events, micro_batch):
    job = job_of(folder, 9, micro_batch)
    whole = batches_of(job, events)
    for step in (4, 6, 8):
        tail = batches_of(job, events, start_step=step)
        assert_equal_batches(tail, whole[step * job.accumulation :])


def test_positions_tell_where_a_run_goes_on(folder, events):
    batches = batches_of(job_of(folder, 7, micro_batch=2), events)
    positions = [tuple(batch.position) for batch in batches]
    # The first of two micro-batches completes no step; the epoch has six.
    assert positions[:4] == [(0, 0), (0, 1), (0, 1), (0, 2)]
    assert positions[-4:] == [(0, 5), (1, 0), (1, 0), (1, 1)]


def test_epochs_differ_and_can_be_repeated(folder, events):
    job = job_of(folder, 12)
    steps = by_step(batches_of(job, events))
    first, second = ([image for step in part for image in step] for part in (steps[:6], steps[6:]))
    for epoch in (first, second):
        assert len({key for key, *_ in epoch}) == 24
    assert [key for key, *_ in first] != [key for key, *_ in second]
    assert not {seed for _, seed, *_ in first} & {seed for _, seed, *_ in second}
    pixels = {key: digest for key, *_, digest in first}
    assert all(pixels.get(key) != digest for key, *_, digest in second)
    assert by_step(batches_of(job, events)) == steps


def test_another_seed_draws_another_order_and_other_crops(folder, events):
    one, other = (by_step(batches_of(job_of(folder, seed=s), events)) for s in (0, 1))
    assert {i[0] for step in one for i in step} & {i[0] for step in other for i in step}
    assert not {i[3] for step in one for i in step} & {i[3] for step in other for i in step}


def test_threads_and_readers_draw_nothing(folder, events):
    one, many = (batches_of(job_of(folder, decode_threads=n), events) for n in (1, 5))
    assert_equal_batches(many, one)


@pytest.fixture
def damaged(tmp_path):
    """A data set with a picture that cannot be decoded; its key."""
    folder = write_folder(tmp_path / "damaged")
    index = DataIndex.load(folder / "train")
    members = index.members(1, 2)
    offset, size = members.image
    content = bytearray(index.path(1).read_bytes())
    content[offset + 2 : offset + size] = bytes(size - 2)
    index.path(1).write_bytes(content)
    return folder, members.key


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_bad_sample_is_left_out_and_every_rank_takes_equally_many_steps(
    damaged, folder, tmp_path, events, world_size
):
    broken, key = damaged
    job = small_job(broken, training={"max_steps": 12}, scale={"workers": world_size})
    run = make_run(tmp_path, "damaged")
    ranks = [batches_of(job, events_of(run, r), r, world_size) for r in range(world_size)]
    assert [len(batches) for batches in ranks] == [12] * world_size
    seen = Counter(key for batches in ranks for batch in batches for key in batch.keys)
    assert seen[key] == 0
    quarantined = read_events(run.events, "quarantined")
    times = sum(
        key in [i[0] for i in step] for step in by_step(batches_of(job_of(folder, 12), events))
    )
    assert 1 <= times == len(quarantined) <= 2
    assert {(event["key"], event["shard"]) for event in quarantined} == {(key, "shard-000001.tar")}
    blank = [batch for batches in ranks for batch in batches if batch.keys == [""]]
    assert len(blank) == (times if world_size == 4 else 0)
    assert all(batch.weights.tolist() == [0] and batch.step_regions == 0 for batch in blank)


def test_a_bad_sample_moves_no_other(damaged, folder, events):
    broken, key = damaged
    whole = [i for step in by_step(batches_of(job_of(folder), events)) for i in step]
    rest = [i for step in by_step(batches_of(job_of(broken), events)) for i in step]
    assert rest == [image for image in whole if image[0] != key]


def test_too_many_bad_samples_end_the_iteration_in_the_consumer(damaged, events):
    broken, key = damaged
    data = {"bad_sample_grace": 0, "max_bad_fraction": 0.0}
    stream, _ = build_streams(job_of(broken, 12, **data), Place(0, 1, 0), events)
    prefetch = Prefetch(stream, depth=2)
    with pytest.raises(TooManyBadSamplesError, match=key):
        list(prefetch)
    prefetch.close()
    assert not prefetch._thread.is_alive()


def test_prefetch_keeps_the_order_and_ends_for_whoever_asks_again():
    prefetch = Prefetch(range(100), depth=3)
    assert list(prefetch) == list(range(100))
    assert list(prefetch) == []
    prefetch.close()


def test_prefetch_makes_no_more_than_its_depth_ahead():
    made = []
    three_made = threading.Event()

    def source():
        for number in range(100):
            made.append(number)
            if number == 3:
                three_made.set()
            yield number

    prefetch = Prefetch(source(), depth=2)
    items = iter(prefetch)
    assert next(items) == 0
    assert three_made.wait(10)  # two lie ready, the third waits for a place
    assert made == [0, 1, 2, 3]
    prefetch.close()
    assert len(made) < 10


class NoIterator:
    def __iter__(self):
        raise OSError("no disk")


def failing():
    yield 1
    raise OSError("no disk")


@pytest.mark.parametrize(("source", "before"), [(failing, [1]), (NoIterator, [])])
def test_an_error_in_the_thread_reaches_the_consumer_every_time_it_asks(source, before):
    prefetch = Prefetch(source(), depth=2)
    items = iter(prefetch)
    assert [next(items) for _ in before] == before
    with pytest.raises(OSError, match="no disk"):
        next(items)
    with pytest.raises(OSError, match="no disk"):
        next(iter(prefetch))
    prefetch.close()


def test_closing_early_stops_the_thread_and_the_source():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    prefetch = Prefetch(endless(), depth=1)
    assert next(iter(prefetch)) == 0
    prefetch.close()
    assert closed.is_set()
    assert not prefetch._thread.is_alive()
    prefetch.close()


@pytest.fixture
def module(folder, tmp_path):
    """Makes datamodules of small jobs, and closes them."""
    made = []

    def make(start_step=0, steps=9, **changes):
        job = small_job(folder, **{"training": {"max_steps": steps}, **changes})
        run = make_run(tmp_path, f"run{len(made)}")
        made.append(datamodule(job, run, start_step))
        return made[-1]

    yield make
    for each in made:
        each.teardown("fit")


def at_step(module, step):
    module.trainer = SimpleNamespace(global_step=step)
    return module


def test_the_state_of_the_data_goes_round(module):
    state = at_step(module(), 8).state_dict()
    assert (state["steps"], state["position"]) == (8, {"epoch": 1, "step": 2})
    again = module(start_step=8)
    again.load_state_dict(state)
    assert at_step(again, 8).state_dict() == state
    expected = list(module().train_dataloader())[8:]
    assert_equal_batches(list(again.train_dataloader()), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"seed": 7}}, r"data\.seed was 0, is 7"),
        ({"data": {"shuffle_window": 2}}, r"data\.shuffle_window was 4, is 2"),
        ({"data": {"partitions": 2}}, r"data\.partitions was 4, is 2; samples in a partition"),
        ({"training": {"max_steps": 9, "global_batch": 8}}, r"global_batch was 4, is 8"),
    ],
)
def test_another_order_of_the_data_is_refused(module, changes, message):
    state = at_step(module(), 0).state_dict()
    with pytest.raises(ValueError, match=message):
        module(**changes).load_state_dict(state)


def test_more_workers_or_steps_are_no_other_order(module):
    state = at_step(module(), 4).state_dict()
    changes = {"scale": {"workers": 2}, "training": {"max_steps": 20, "micro_batch": 1}}
    module(start_step=4, **changes).load_state_dict(state)
