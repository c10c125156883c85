"""A mixture through the real stream: the batches of every number of ranks, resuming, refusals."""

from __future__ import annotations

from collections import Counter

import pytest
from small_runs import batches_of, datamodule, events_of, make_run, small_job, write_folder
from test_streams import assert_equal_batches, at_step, by_step

STEPS = 16
"""Over the end of the nominal epoch, of ten steps, and of four epochs of the small set."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """26 samples from key 0 on, and 14 from key 50 on."""
    root = tmp_path_factory.mktemp("mixture")
    return write_folder(root / "large"), write_folder(root / "small", 14, first=50)


@pytest.fixture
def events(tmp_path):
    return events_of(make_run(tmp_path))


def job_of(folders, weights=(1.0, 1.0), workers=1, **training):
    sets = zip(folders, weights, strict=True)
    data = {
        "source": "mixture",
        "mixture": [{"path": str(folder), "weight": weight} for folder, weight in sets],
    }
    common = ("partitions", "regions_per_image", "min_region_pixels", "shuffle_window")
    usual = small_job(folders[0]).data
    data |= {name: getattr(usual, name) for name in (*common, "reader_tasks")}
    training = {"max_steps": STEPS, **training}
    return small_job(folders[0], data=data, training=training, scale={"workers": workers})


def test_both_sets_meet_in_the_batches(folders, events):
    batches = batches_of(job_of(folders), events)
    keys = [key for batch in batches for key in batch.keys]
    large, small = ([key for key in keys if (key >= "key50") == late] for late in (False, True))
    assert len(large) + len(small) == 4 * STEPS
    # The small set gives 3 of its 14 samples to each of 4 partitions, and begins anew.
    assert 20 <= len(small) <= 44
    assert Counter(small).most_common(1)[0][1] > 1
    assert batches[9].position == (1, 0)


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_number_of_ranks_sees_the_same_global_batches(folders, events, world_size):
    alone = by_step(batches_of(job_of(folders), events))
    job = job_of(folders, workers=world_size)
    ranks = [by_step(batches_of(job, events, r, world_size)) for r in range(world_size)]
    for number, step in enumerate(alone):
        together = [image for rank in ranks for image in rank[number]]
        assert Counter(together) == Counter(step)
        assert len(step) == 4


def test_resuming_gives_the_equal_tail(folders, events):
    job = job_of(folders, micro_batch=2)
    whole = batches_of(job, events)
    for step in (3, 10, 15):
        assert_equal_batches(batches_of(job, events, start_step=step), whole[2 * step :])


@pytest.mark.parametrize(
    ("weights", "sets", "message"),
    [
        ((1, 2), [0, 1], r"data\.mixture\.0 was large: 512 of 1024 slots, .* is large: 341 of"),
        ((1, 1), [1, 0], r"data\.mixture\.0 was large: .* is small: 512 of 1024 slots, 14 samples"),
        ((1,), [0], r"data\.mixture\.1 was small: .*, is not there"),
        ((1, 1, 1), [0, 1, 2], r"data\.mixture\.2 was not there, is other: 341 of"),
    ],
)
def test_another_mixture_is_refused(folders, tmp_path, weights, sets, message):
    other = write_folder(tmp_path / "other", 20)
    chosen = [(*folders, other)[number] for number in sets]
    one = datamodule(job_of(folders), make_run(tmp_path, "one"))
    two = datamodule(job_of(chosen, weights), make_run(tmp_path, "two"))
    try:
        state = at_step(one, 0).state_dict()
        with pytest.raises(ValueError, match=message):
            two.load_state_dict(state)
        again = datamodule(job_of(folders, (3, 3)), make_run(tmp_path, "three"))
        again.load_state_dict(state)
        again.teardown("fit")
    finally:
        one.teardown("fit")
        two.teardown("fit")
