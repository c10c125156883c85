from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from wandb_files import records_of, rows_of

from tap_platform.config.load import load_job
from tap_platform.config.load_pipeline import load_pipeline
from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs import provenance
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import write_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.status import update_status
from tap_platform.runs.tracking import build_follower, build_tracker
from tap_platform.runs.tracking.base import TrackerRefusedError
from tap_platform.runs.tracking.sync import sync_run

LONG = "x" * 7000


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """One storage for all tests: making MLflow's tables takes seconds."""
    return tmp_path_factory.mktemp("runs")


def make_run(storage, name, config=None):
    run = RunDirectory.create(storage, "scenes", name)
    write_json(run.config, config or {"name": name, "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}})
    write_json(run.provenance, provenance.collect(data_hash="abc").to_json())
    update_status(run.status, state="running", attempt=run.begin_attempt())
    return run


def write_steps(run, steps, attempt=1):
    writer = MetricsWriter(run.metrics, attempt)
    for step in steps:
        writer.write(step, {"loss": 1 / step, "odd": math.nan if step == 2 else math.inf})


def add_picture(run, name):
    Image.new("RGB", (8, 8), "red").save(run.pictures / name)


def resume(run):
    update_status(run.status, state="running", attempt=run.begin_attempt())


def follower(run, **tracking):
    return build_follower(run, TrackingConfig(**tracking))


# MLflow


def client_of(storage):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")


def tracked(storage, name):
    client = client_of(storage)
    experiment = client.get_experiment_by_name("scenes")
    runs = client.search_runs([experiment.experiment_id], f"tags.`tap.run` = '{name}'")
    assert len(runs) == 1
    return client, runs[0]


def history(client, run, key):
    values = client.get_metric_history(run.info.run_id, key)
    return [(metric.step, metric.value) for metric in sorted(values, key=lambda m: m.step)]


def test_mlflow_shows_the_whole_run(storage, monkeypatch, capfd):
    monkeypatch.chdir(storage)
    run = make_run(storage, "whole", {"name": "whole", "a": {"b": LONG, "c": [1, 2]}, "d": None})
    write_steps(run, range(1, 4))
    add_picture(run, "grid-step-3.png")
    update_status(run.status, state="finished")
    follower(run, tags={"team": "vision"}).sync()
    assert capfd.readouterr() == ("", "")

    client, shown = tracked(storage, "whole")
    assert shown.info.status == "FINISHED"
    assert shown.info.run_name == "whole"
    params = shown.data.params
    assert (params["a.c"], params["d"], params["name"]) == ("[1, 2]", "null", "whole")
    assert params["a.b"].startswith("xxx")
    assert len(params["a.b"]) == 6000
    assert shown.data.tags["team"] == "vision"
    assert shown.data.tags["data.hash"] == "abc"
    if revision := provenance.collect().git_revision:
        assert shown.data.tags["mlflow.source.git.commit"] == revision
    assert history(client, shown, "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert math.isnan(history(client, shown, "train/odd")[1][1])
    artifacts = {artifact.path for artifact in client.list_artifacts(shown.info.run_id)}
    assert artifacts == {"config.json", "provenance.json", "settings.md", "images"}
    pictures = {file.path for file in client.list_artifacts(shown.info.run_id, "images")}
    assert {path.split("+")[0] for path in pictures} == {"images/grid"}
    assert {path.split("+")[2] for path in pictures} == {"3"}
    assert {path.name for path in storage.iterdir() if not path.name.startswith(".")} == {
        "scenes",
        "mlflow.db",
        "mlflow-artifacts",
    }


def test_mlflow_goes_on_with_one_run_after_a_resume(storage):
    run = make_run(storage, "resumed")
    write_steps(run, range(1, 8))
    follower(run).sync()
    update_status(run.status, state="interrupted")
    follower(run).sync()
    client, shown = tracked(storage, "resumed")
    assert shown.info.status == "KILLED"

    resume(run)
    write_json(run.config, {"optimizer": {"lr": 0.2}, "new": True})
    write_steps(run, range(5, 11), attempt=2)
    follower(run).sync()
    client, shown = tracked(storage, "resumed")
    assert shown.info.status == "RUNNING"
    assert history(client, shown, "train/loss") == [(step, 1 / step) for step in range(1, 11)]
    assert shown.data.params["optimizer.lr"] == "0.1"
    assert shown.data.params["new"] == "true"
    assert shown.data.tags["changed.optimizer.lr"] == "0.2"


def test_mlflow_shows_once_what_is_sent_twice(storage):
    run = make_run(storage, "twice")
    write_steps(run, range(1, 4))
    follower(run).sync()
    (run.path / "tracking-mlflow.json").unlink()
    write_steps(run, [4])
    follower(run).sync()
    client, shown = tracked(storage, "twice")
    assert [step for step, _ in history(client, shown, "train/loss")] == [1, 2, 3, 4]
    assert len(history(client, shown, "train/odd")) == 4


def test_mlflow_tells_runs_of_one_name_from_each_other(storage, tmp_path):
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    for number, place in enumerate((storage, tmp_path), start=1):
        run = make_run(place, "namesake")
        update_status(run.status, started=f"2026-11-0{number}T10:00:00.000+00:00")
        write_steps(run, [number])
        follower(run, mlflow={"uri": uri}).sync()
    client = client_of(storage)
    experiment = client.get_experiment_by_name("scenes")
    runs = client.search_runs([experiment.experiment_id], "tags.`tap.run` = 'namesake'")
    steps = [[step for step, _ in history(client, run, "train/loss")] for run in runs]
    assert sorted(steps) == [[1], [2]]


def test_mlflow_takes_more_than_one_call_holds_and_names_it_does_not_know(storage):
    run = make_run(storage, "many", {f"key@{number}": number for number in range(130)})
    writer = MetricsWriter(run.metrics)
    for step in range(1, 31):
        writer.write(step, {f"class{number}": step for number in range(40)})
    writer.write(31, {"iou@0.5": 1.0})
    follower(run).sync()
    client, shown = tracked(storage, "many")
    assert len(shown.data.params) == 130
    assert history(client, shown, "train/class39") == [(step, step) for step in range(1, 31)]
    assert history(client, shown, "train/iou_0.5") == [(31, 1.0)]


def test_mlflow_that_is_unreachable_is_an_error_and_loses_nothing(storage, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = make_run(storage, "unreachable")
    write_steps(run, [1])
    with pytest.raises(TrackerRefusedError, match=r"127\.0\.0\.1:9 does not answer"):
        follower(run, mlflow={"uri": "http://127.0.0.1:9"}).sync()
    follower(run).sync()
    client, shown = tracked(storage, "unreachable")
    assert history(client, shown, "train/loss") == [(1, 1.0)]


JOB = Path(__file__).resolve().parents[2] / "jobs/tap_tiny_scenes.yaml"


def run_of_a_job(storage, name, *overrides):
    run = make_run(storage, name, load_job(JOB, overrides).model_dump(mode="json"))
    write_steps(run, [1, 2])
    update_status(run.status, state="finished")
    return run


def test_what_a_tracker_lacks_is_sent_after_the_run(storage):
    run_of_a_job(storage, "later")
    assert sync_run("later", str(storage)) >= 4
    assert sync_run("later", str(storage)) == 0
    client, shown = tracked(storage, "later")
    assert history(client, shown, "train/loss") == [(1, 1.0), (2, 0.5)]


def test_why_a_tracker_takes_nothing_is_told(storage, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = run_of_a_job(storage, "down", "tracking.mlflow.uri=http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"mlflow has not taken all of down .*127\.0\.0\.1"):
        sync_run(str(run.path))
    run = run_of_a_job(storage, "untracked", "tracking.tracker=none")
    with pytest.raises(ValueError, match="untracked has no tracker"):
        sync_run(str(run.path))


PIPELINE = JOB.with_name("scenes_pipeline.yaml")


def make_pipeline_run(storage, name, tracker="mlflow"):
    """A parent run, and the run of one of its stages."""
    parent = RunDirectory.create(storage, "scenes", name)
    pipeline = load_pipeline(PIPELINE, [f"all.tracking.tracker={tracker}"])
    write_json(parent.pipeline, pipeline.model_dump(mode="json"))
    write_json(parent.provenance, provenance.collect().to_json())
    update_status(parent.status, state="running", attempt=parent.begin_attempt())
    stage = make_run(storage, f"{name}-first")
    update_status(stage.status, parent=name)
    return parent, stage


def test_mlflow_shows_a_stage_below_its_parent(storage):
    parent, stage = make_pipeline_run(storage, "nested")
    write_steps(stage, [1])
    assert follower(parent).sync() == 0
    follower(stage).sync()
    client, above = tracked(storage, "nested")
    _, below = tracked(storage, "nested-first")
    assert below.data.tags["mlflow.parentRunId"] == above.info.run_id
    assert "mlflow.parentRunId" not in above.data.tags

    (parent.report / "summary.md").write_text("all stages")
    update_status(parent.status, state="finished")
    assert sync_run("nested", str(storage)) == 3
    assert sync_run("nested", str(storage)) == 0
    client, again = tracked(storage, "nested")
    assert (again.info.run_id, again.info.status) == (above.info.run_id, "FINISHED")
    files = {file.path for file in client.list_artifacts(above.info.run_id)}
    assert files == {"pipeline.json", "provenance.json", "report"}


def test_a_stage_whose_parent_has_gone_is_shown_by_itself(storage):
    parent, stage = make_pipeline_run(storage, "orphaned")
    write_steps(stage, [1])
    parent.status.unlink()
    follower(stage).sync()
    _, shown = tracked(storage, "orphaned-first")
    assert "mlflow.parentRunId" not in shown.data.tags


# Weights & Biases


def test_wandb_offline_shows_the_whole_run(storage, capfd):
    run = make_run(storage, "wandb-whole")
    write_steps(run, range(1, 4))
    add_picture(run, "grid-step-3.png")
    update_status(run.status, state="finished")
    follower(run, tracker="wandb", tags={"team": "vision"}).sync()
    assert capfd.readouterr() == ("", "")

    rows, config = rows_of(run)
    assert [(row["_step"], row["step"], row["train/loss"]) for row in rows] == [
        ("1", "1", "1"),
        ("2", "2", "0.5"),
        ("3", "3", "0.3333333333333333"),
    ]
    assert "image-file" in str(rows[2])
    assert config["optimizer.lr"] == "0.1"
    assert config["tags.data.hash"] == '"abc"'
    (files,) = (run.path / "wandb").glob("offline-run-*/files")
    assert (files / "config.json").read_bytes() == run.config.read_bytes()


def test_wandb_offline_is_one_run_without_doubles_after_a_kill(storage):
    run = make_run(storage, "wandb-killed")
    write_steps(run, range(1, 4))
    code = (
        "import os, sys; from pathlib import Path;"
        "from tap_platform.config.tracking import TrackingConfig;"
        "from tap_platform.runs.directory import RunDirectory;"
        "from tap_platform.runs.tracking import build_follower;"
        "f = build_follower(RunDirectory(Path(sys.argv[1])), TrackingConfig(tracker='wandb'));"
        "f._pass(); os.kill(os.getpid(), 9)"
    )
    # The killed driver has a W&B service of its own, not this process's.
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    command = [sys.executable, "-c", code, run.path]
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    resume(run)
    write_steps(run, range(2, 6), attempt=2)
    update_status(run.status, state="finished")
    follower(run, tracker="wandb").sync()
    rows, _ = rows_of(run)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]


def test_wandb_groups_stages_with_their_parent(storage):
    parent, stage = make_pipeline_run(storage, "wandb-nested", "wandb")
    write_steps(stage, [1])
    alone = make_run(storage, "wandb-alone")
    write_steps(alone, [1])
    for run in (parent, stage, alone):
        update_status(run.status, state="finished")
        follower(run, tracker="wandb").sync()
    groups = [group_of(run) for run in (parent, stage, alone)]
    assert groups == ["wandb-nested", "wandb-nested", ""]


def group_of(run):
    rows_of(run)
    (path,) = (run.path / "wandb").glob("offline-run-*/*.wandb")
    return next(record.run.run_group for record in records_of(path) if record.HasField("run"))


def test_wandb_keeps_a_record_that_comes_late(storage):
    run = make_run(storage, "wandb-late")
    write_steps(run, range(1, 4))
    MetricsWriter(run.metrics).write(2, {"iou": 0.5}, kind="val")
    update_status(run.status, state="failed")
    follower(run, tracker="wandb").sync()
    rows, _ = rows_of(run)
    assert [(row["step"], row["val/iou"]) for row in rows if "val/iou" in row] == [("2", "0.5")]
    assert [row["step"] for row in rows if "train/loss" in row] == ["1", "2", "3"]


def test_wandb_online_without_a_key_is_an_error_and_asks_nothing(storage, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", "/dev/null")
    run = make_run(storage, "wandb-keyless")
    write_steps(run, [1])
    begin = time.monotonic()
    with pytest.raises(TrackerRefusedError, match="set WANDB_API_KEY"):
        follower(run, tracker="wandb", wandb={"mode": "online"}).sync()
    assert time.monotonic() - begin < 10


# Config


def test_no_tracker_is_no_follower(tmp_path):
    assert build_tracker(TrackingConfig(tracker="none")) is None
    assert build_follower(RunDirectory(tmp_path), TrackingConfig(tracker="none")) is None


def test_a_password_in_the_config_is_refused():
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD") as told:
        TrackingConfig(mlflow={"uri": "https://me:secret@host"})
    assert "secret" not in str(told.value)
