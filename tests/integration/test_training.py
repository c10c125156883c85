"""Runs through the whole stack: Ray Data, Lightning, Ray Train, checkpoints and tracking."""

from __future__ import annotations

import pytest
from whole_runs import (
    kill_whole,
    losses,
    records,
    run_job,
    spec_of,
    starts,
    tap,
    the_run,
    worker_killed_at,
)

from tap_platform.launch.train import create_run, train
from tap_platform.runs import checkpoints
from tap_platform.runs.status import read_status

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

NO_DROPOUT = {"drop_path": 0.0, "decoder_dropout": 0.0}
"""Every worker draws its own dropout, so only runs without it can agree over numbers of workers."""

SAVED = {"checkpoint": {"every_steps": 4, "keep_last": 5}}
ACCUMULATED = {"training": {"micro_batch": 2}, **SAVED}


@pytest.fixture(scope="module")
def one_worker(make_job):
    """Twelve steps, an epoch and a half."""
    return run_job(make_job("one", model=NO_DROPOUT))


@pytest.fixture(scope="module")
def two_workers(make_job):
    return run_job(make_job("two", model=NO_DROPOUT, scale={"workers": 2}))


@pytest.fixture(scope="module")
def accumulated(make_job):
    """The same batches on one worker in two halves each, with dropout."""
    return run_job(make_job("accumulated", **ACCUMULATED))


def test_two_workers_follow_the_loss_curve_of_one(one_worker, two_workers):
    assert set(losses(one_worker)) == set(range(1, 13))
    # Two workers add the same numbers in another order, in float32.
    assert losses(two_workers) == pytest.approx(losses(one_worker), rel=2e-4)


def test_micro_batches_are_cut_from_the_same_global_batches(one_worker, accumulated):
    regions = {step: values["regions"] for step, values in records(one_worker).items()}
    assert {step: values["regions"] for step, values in records(accumulated).items()} == regions
    assert len(set(regions.values())) > 1


@pytest.mark.long
def test_a_worker_killed_in_mid_epoch_changes_no_later_loss(make_job, two_workers):
    scale = {"workers": 2, "max_failures": 1}
    job = make_job("worker-killed", model=NO_DROPOUT, scale=scale, **SAVED)
    run = create_run(job)
    with worker_killed_at(run, step=5):
        train(job, run)
    assert starts(run) in ([None, "step-4"], [None, "step-8"])
    assert losses(run) == losses(two_workers)
    assert read_status(run.status).state == "finished"


@pytest.mark.long
def test_a_run_killed_as_a_whole_goes_on_with_equal_bits(make_job, accumulated, tmp_path):
    job = make_job(
        "run-killed",
        tracking={"tracker": "mlflow", "interval": 0.2},
        evaluation={"final_images": 4, "pictures": 2},
        **ACCUMULATED,
    )
    driver = tap("train", spec_of(job, tmp_path))
    run = the_run(job)
    kill_whole(driver, run, step=5)
    assert read_status(run.status).state == "interrupted"
    before = checkpoints.latest(run.checkpoints, on_skipped=pytest.fail)
    seen = dict(losses(run))

    resumed = tap("train", "--resume", run.path)
    output, _ = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, output
    assert starts(run) == [None, before.name]
    assert seen.items() <= losses(accumulated).items()
    assert losses(run) == losses(accumulated)
    assert_one_tracked_run(run)


def assert_one_tracked_run(run) -> None:
    """MLflow shows the run once, whole, over both of its attempts."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(run.project)
    named = f"attributes.run_name = '{run.name}'"
    (shown,) = client.search_runs([experiment.experiment_id], named)
    assert (shown.info.run_name, shown.info.status) == (run.name, "FINISHED")
    assert shown.data.params["training.micro_batch"] == "2"
    assert len(shown.data.tags["mlflow.source.git.commit"]) == 40
    curve = client.get_metric_history(shown.info.run_id, "train/loss")
    assert {point.step: point.value for point in curve} == losses(run)
    assert len(curve) == len(losses(run))
    assert shown.data.metrics["final/box_iou"] > 0
    files = {file.path for file in client.list_artifacts(shown.info.run_id)}
    assert {"config.json", "provenance.json", "settings.md", "events.jsonl"} <= files
    pictures = {file.path for file in client.list_artifacts(shown.info.run_id, "images")}
    assert len(pictures) == 2, "a picture, and a small one for lists"
    assert all(path.startswith("images/held-out+step+12+") for path in pictures)
