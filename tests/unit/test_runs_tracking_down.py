"""Trackers that are down, against real servers: nothing waits for them, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from tracking_servers import (
    FAULTS,
    Faulty,
    WandbApplication,
    free_port,
    mlflow_application,
    serving,
)

from tap_platform.config.load import load_job
from tap_platform.runs import provenance
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.files import write_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.status import update_status
from tap_platform.runs.tracking import build_follower
from tap_platform.runs.tracking.sync import sync_run, tracking_of

JOB = Path(__file__).resolve().parents[2] / "jobs/tap_tiny_scenes.yaml"
FINAL_SECONDS = 0.2
LEAVE_BEHIND = """
import sys
from pathlib import Path
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import update_status
from tap_platform.runs.tracking import build_follower
from tap_platform.runs.tracking.sync import tracking_of

run = RunDirectory(Path(sys.argv[1]))
follower = build_follower(run, tracking_of(run))
follower.interval = 0.01
follower.start()
sys.stdin.readline()
update_status(run.status, state="finished")
assert not follower.stop(0.2)
"""


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        for name in ("FILE_STORE", "ARTIFACT_ROOT", "ARTIFACT_DESTINATION", "SERVE_ARTIFACTS"):
            patch.setenv(f"_MLFLOW_SERVER_{name}", "")
        yield Faulty(mlflow_application(tmp_path_factory.mktemp("mlflow")))


def make_run(storage, name, *overrides):
    run = RunDirectory.create(storage, "scenes", name)
    write_json(run.config, load_job(JOB, overrides).model_dump(mode="json"))
    write_json(
        run.provenance,
        provenance.collect(data_hash="abc", data={"/data/scenes": "ab" * 32}).to_json(),
    )
    update_status(run.status, state="running", attempt=run.begin_attempt())
    write_steps(run, 1, 4)
    return run


def write_steps(run, start, stop):
    for step in range(start, stop):
        MetricsWriter(run.metrics).write(step, {"loss": 1 / step})


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kinds(run):
    return [event["kind"] for event in read_events(run.events)]


def shown(url, name):
    """Every point of the loss that MLflow has of the one run of that name."""
    from mlflow import MlflowClient

    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("scenes")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`tap.run` = '{name}'")
    points = client.get_metric_history(run.info.run_id, "train/loss")
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    return run, sorted((point.step, point.value) for point in points), artifacts


@pytest.mark.parametrize("fault", [each for each in FAULTS if each != "answers 401"])
def test_what_mlflow_missed_arrives_once_by_a_later_sync(
    fault, mlflow_server, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    port, name = free_port(), fault.replace(" ", "-")
    run = make_run(tmp_path, name, f"tracking.mlflow.uri=http://127.0.0.1:{port}")
    follower = build_follower(run, tracking_of(run))
    follower.interval = 0.02
    with ExitStack() as up:
        if fault != "refuses":
            mlflow_server.fault = fault
            mlflow_server.released.clear()
            up.enter_context(serving(mlflow_server, port))
        follower.start()
        wait_for(lambda: "tracking_failed" in kinds(run))
        write_steps(run, 4, 7)
        update_status(run.status, state="finished")
        began = time.monotonic()
        assert not follower.stop(FINAL_SECONDS)
        assert time.monotonic() - began < FINAL_SECONDS + 5
        assert kinds(run) == ["tracking_failed", "tracking_behind"]
        follower._thread.join()
        mlflow_server.fault = None
        mlflow_server.released.set()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    with serving(mlflow_server, port) as url:
        assert sync_run(name, str(tmp_path)) >= 6
        assert sync_run(name, str(tmp_path)) == 0
        tracked, points, artifacts = shown(url, name)
    assert points == [(step, 1 / step) for step in range(1, 7)]
    assert tracked.info.status == "FINISHED"
    assert artifacts == {"config.json", "provenance.json", "events.jsonl", "settings.md"}


def test_an_outage_is_two_events_and_the_next_one_two_more(mlflow_server, tmp_path):
    with serving(mlflow_server) as url:
        run = make_run(tmp_path, "outages", f"tracking.mlflow.uri={url}")
        follower = build_follower(run, tracking_of(run))
        follower.interval = 0.02
        follower.start()
        for outage in (1, 2):
            mlflow_server.fault = "answers 500"
            write_steps(run, 10 * outage, 10 * outage + 3)
            wait_for(lambda count=outage: kinds(run).count("tracking_failed") == count)
            requests = mlflow_server.requests
            wait_for(lambda asked=requests: mlflow_server.requests > asked + 1)
            mlflow_server.fault = None
            wait_for(lambda count=outage: kinds(run).count("tracking_recovered") == count)
        update_status(run.status, state="finished")
        assert follower.stop(10)
        assert kinds(run) == ["tracking_failed", "tracking_recovered"] * 2
        points = shown(url, "outages")[1]
    assert [step for step, _ in points] == [1, 2, 3, 10, 11, 12, 20, 21, 22]


def test_a_server_that_refuses_who_asks_is_told_so_and_training_goes_on(mlflow_server, tmp_path):
    mlflow_server.fault = "answers 401"
    with serving(mlflow_server) as url:
        run = make_run(tmp_path, "stranger", f"tracking.mlflow.uri={url}")
        follower = build_follower(run, tracking_of(run))
        follower.interval = 0.02
        follower.start()
        wait_for(lambda: "tracking_failed" in kinds(run))
        write_steps(run, 4, 7)
        mlflow_server.fault = None
        update_status(run.status, state="finished")
        assert follower.stop(20)
        points = shown(url, "stranger")[1]
    told = read_events(run.events, "tracking_failed")[0]["error"]
    assert f"{url} refuses who asks: set MLFLOW_TRACKING_USERNAME" in told
    assert [step for step, _ in points] == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def wandb_of_its_own():
    """W&B leaves word of its process in the environment, which a driver would take up."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("wandb_of_its_own")
@pytest.mark.parametrize("fault", ["answers 500", "hangs"])
def test_the_end_of_the_process_does_not_wait_for_wandb(fault, tmp_path, monkeypatch):
    wandb = Faulty(WandbApplication())
    wandb.fault = fault
    with serving(wandb) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        run = make_run(tmp_path, "behind", "tracking.tracker=wandb", "tracking.wandb.mode=online")
        command = [sys.executable, "-c", LEAVE_BEHIND, run.path]
        driver = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: wandb.requests > 0)
        began = time.monotonic()
        _, errors = driver.communicate("end\n", timeout=60)
        assert (driver.returncode, errors) == (0, "")
        assert time.monotonic() - began < 20, "W&B's own patience is 30 s"
        wandb.fault = None
        wandb.released.set()
        assert sync_run("behind", str(tmp_path)) == 3 + 3
        assert sync_run("behind", str(tmp_path)) == 0
    assert "tracking_behind" in kinds(run)
    history = wandb.application.history
    assert [(row["step"], row["train/loss"]) for row in history] == [(1, 1), (2, 1 / 2), (3, 1 / 3)]
    assert wandb.application.exit_codes == [0]
    assert {"config.json", "provenance.json"} <= wandb.application.uploads.keys()
    assert len(wandb.application.used) == 1, "the data set, which the run learned from"


@pytest.mark.usefixtures("wandb_of_its_own")
def test_wandb_online_goes_on_where_its_server_stands(tmp_path, monkeypatch):
    wandb = WandbApplication()
    with serving(wandb) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        run = make_run(tmp_path, "goes-on", "tracking.tracker=wandb", "tracking.wandb.mode=online")
        # A row that comes late makes W&B's own number of rows run ahead of the steps.
        MetricsWriter(run.metrics).write(2, {"iou": 0.5}, kind="val")
        MetricsWriter(run.metrics).write(1, {"seen": 1.0}, kind="data")
        sync_run("goes-on", str(tmp_path))
        write_steps(run, 4, 7)
        update_status(run.status, state="finished")
        sync_run("goes-on", str(tmp_path))
    losses = [(row["step"], row["train/loss"]) for row in wandb.history if "train/loss" in row]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, 7)]
    assert [row["step"] for row in wandb.history if "val/iou" in row] == [2]
