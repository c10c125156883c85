"""Runs through the whole stack: Ray Data, Lightning, Ray Train, checkpoints and tracking."""

from __future__ import annotations

import pytest

from tap_platform.launch.train import create_run, train
from tap_platform.runs.metrics import read_metrics

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
