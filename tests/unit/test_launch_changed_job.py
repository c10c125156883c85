"""What may change while a run goes on, and what is refused by name."""

from __future__ import annotations

import pytest
from test_launch_prepare import make_job, write_set

from tap_platform.launch import train as launch
from tap_platform.launch.worker_entry import tell_start
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import read_json
from tap_platform.runs.status import read_status


@pytest.fixture
def run(tmp_path, monkeypatch):
    write_set(tmp_path)
    job = make_job(tmp_path)
    job = job.model_copy(update={"tracking": job.tracking.replaced(tracker="none")})
    monkeypatch.setattr(launch, "run_workers", lambda *_: None)
    return launch.create_run(job)


def resume(run, *overrides):
    launch.resume_run(str(run.path), overrides)


def test_a_run_goes_on_with_other_workers_and_says_so(run):
    before = read_json(run.config)
    elastic = ("scale.workers=[1,3]", "checkpoint.every_steps=1")
    resume(run, *elastic, "scale.strategy=zero_1", "training.micro_batch=1")
    now = read_json(run.config)
    assert now == before | {
        "scale": before["scale"] | {"workers": [1, 3], "strategy": "zero_1"},
        "training": before["training"] | {"micro_batch": 1},
        "checkpoint": before["checkpoint"] | {"every_steps": 1},
    }
    (event,) = read_events(run.events, "changed")
    assert event["changes"] == {
        "training.micro_batch": [None, 1],
        "scale.workers": [1, [1, 3]],
        "scale.strategy": ["ddp", "zero_1"],
        "checkpoint.every_steps": [None, 1],
    }
    plan = read_json(run.plan)
    assert (plan["job"], plan["least_batch"]["workers"]) == (now, 1)
    resume(run, "scale.strategy=zero_1")
    assert len(read_events(run.events, "changed")) == 1


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["optimizer.lr=1"],
            r"optimizer.lr=1\.0 \(was 0.001\) would make another run: start a new",
        ),
        (["data.seed=3", "scale.workers=2"], "data.seed=3 .*another run.* free are scale"),
        (["training.global_batch=8", "seed=1"], "seed=1 .*\n.*training.global_batch=8 "),
        (["training.max_steps=1"], "max_steps 1 is below the 2 of this run: it may only grow"),
        (["checkpoint.storage=elsewhere"], "checkpoint.storage stays None: its checkpoints lie"),
        (["scale.worker=3"], "unknown key 'scale.worker'; did you mean 'scale.workers'"),
        (["scale.workers=5"], "scale.workers 5 is above data.partitions 4"),
    ],
)
def test_what_would_make_another_run_is_refused_by_name(run, overrides, told):
    before = run.config.read_bytes()
    with pytest.raises(ValueError, match=told):
        resume(run, *overrides)
    assert run.config.read_bytes() == before
    assert read_events(run.events, "changed") == []


def test_more_steps_are_allowed(run):
    resume(run, "training.max_steps=9", "checkpoint.keep_last=5", "health.hang_minutes=null")
    assert read_json(run.config)["training"]["max_steps"] == 9
    assert read_status(run.status).max_steps == 9


def test_every_start_of_the_workers_tells_their_number(run):
    events = EventLog(run.events, 1, rank=0)
    for workers in (2, 2, 1):
        tell_start(run, events, workers, run.checkpoints / "step-4")
        assert read_status(run.status).world_size == workers
    starts = read_events(run.events, "training")
    assert [event["workers"] for event in starts] == [2, 2, 1]
    assert {event["goes_on_from"] for event in starts} == {"step-4"}
    (resized,) = read_events(run.events, "resized")
    assert (resized["was"], resized["now"]) == (2, 1)
