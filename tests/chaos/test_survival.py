"""Runs through the whole stack: Ray Data, Lightning, Ray Train, checkpoints and tracking."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tap_platform.launch.train import create_run, resume_run, train
from tap_platform.runs import checkpoints
from tap_platform.runs.events import read_events
from tap_platform.runs.metrics import read_metrics
from tap_platform.runs.status import read_status

pytestmark = pytest.mark.usefixtures("ray_cluster")

NO_DROPOUT = {"drop_path": 0.0, "decoder_dropout": 0.0}


def losses(run) -> dict[int, float]:
    return {r.step: r.values["loss"] for r in read_metrics(run.metrics) if r.kind == "train"}


def run_job(job):
    return train(job, create_run(job))


@pytest.fixture(scope="module")
def one_worker(make_job):
    """Twelve steps, two epochs of six, on one worker."""
    job = make_job("one", training={"max_steps": 12}, model=NO_DROPOUT)
    return run_job(job)


def test_two_workers_follow_the_same_loss_curve(make_job, one_worker):
    job = make_job("two", training={"max_steps": 12}, model=NO_DROPOUT, scale={"workers": 2})
    alone, together = losses(one_worker), losses(run_job(job))
    assert set(alone) == set(range(1, 13))
    # Two workers add the same numbers in another order, in float32.
    assert together == pytest.approx(alone, rel=2e-4)


def test_accumulation_takes_the_same_images(make_job):
    job = make_job("accumulate", training={"max_steps": 2, "micro_batch": 1})
    run = run_job(job)
    assert job.accumulation == 4
    assert {r.values["regions"] for r in read_metrics(run.metrics)} <= set(range(4, 17))
    assert set(losses(run)) == {1, 2}


@pytest.mark.parametrize("strategy", ["zero_1", "zero_2", "zero_3"])
def test_zero_trains_checkpoints_and_resumes_on_two_workers(make_job, strategy):
    def job(steps):
        return make_job(
            strategy.replace("_", "-"),
            model=NO_DROPOUT,
            training={"max_steps": steps},
            scale={"workers": 2, "strategy": strategy},
            checkpoint={"every_steps": 3},
        )

    whole = run_job(job(6))
    assert [f.name for f in checkpoints.committed(whole.checkpoints)] == ["step-3", "step-6"]
    unbroken = losses(whole)
    cut_to(whole, step=3)
    assert losses(resume_run(str(whole.path))) == unbroken


def cut_to(run, step):
    """Leave a run as a crash after `step` would: later checkpoints and records are gone."""
    for folder in checkpoints.committed(run.checkpoints):
        if checkpoints.step_of(folder) > step:
            (folder / "COMMITTED").unlink()
    lines = run.metrics.read_text().splitlines(keepends=True)
    kept = [line for line in lines if int(line.split('"step":')[1].split(",")[0]) <= step]
    run.metrics.write_text("".join(kept))


def test_a_worker_killed_in_mid_epoch_changes_no_later_loss(make_job):
    changes = {
        "training": {"max_steps": 10},
        "checkpoint": {"every_steps": 4, "keep_last": 5},
        "scale": {"max_failures": 1},
    }
    unbroken = run_job(make_job("unbroken", **changes))
    job = make_job("killed", **changes)
    run = create_run(job)
    killer = threading.Thread(target=kill_worker_after, args=(run, 5), daemon=True)
    killer.start()
    train(job, run)
    starts = read_events(run.events, kind="training")
    assert len(starts) == 2, "the worker was not killed"
    assert starts[1]["goes_on_from"] == "step-4"
    assert losses(run) == losses(unbroken)
    assert read_status(run.status).state == "finished"


def kill_worker_after(run, step):
    """SIGKILL the worker once a step is recorded."""
    while not run.metrics.exists() or max(losses(run), default=0) < step:
        time.sleep(0.02)
    os.kill(read_events(run.events, kind="training")[0]["pid"], signal.SIGKILL)
