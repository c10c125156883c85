"""What both trackers hold of a run and of a sweep, read back from their real stores."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from tracked_content import mlflow_content, wandb_content, wandb_run_record

from tap_platform.config.load import load_job
from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs import provenance
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import append_line, read_json, record_line, utc_now, write_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.status import RunStatus, update_status, write_status
from tap_platform.runs.tables import write_table
from tap_platform.runs.tracking import build_follower
from tap_platform.runs.tracking.base import TrackerRefusedError
from tap_platform.runs.tracking.sweep import tracked_sweep
from tap_platform.runs.tracking.sync import sync_run

JOB = Path(__file__).resolve().parents[2] / "jobs/tap_tiny_scenes.yaml"
TAGS = {"team": "vision", "cost-centre": "4711"}
DATA = {"/data/scenes": "ab" * 32, "vocabulary": "cd" * 32}


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """One storage for all tests: making MLflow's tables takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", autouse=True)
def wandb_keeps_to_the_tests(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield


def make_run(storage, name, link=None):
    run = RunDirectory.create(storage, "scenes", name)
    write_json(run.config, load_job(JOB).model_dump(mode="json"))
    write_json(run.provenance, provenance.collect(data_hash="ef", data=DATA).to_json())
    if link:
        write_json(run.path / "sweep.json", link)
    update_status(run.status, state="running", attempt=run.begin_attempt())
    EventLog(run.events, attempt=1).record("training", workers=2, gpus=2)
    return run


def write_steps(run, steps, attempt=1):
    writer = MetricsWriter(run.metrics, attempt)
    for step in steps:
        values = {"loss": 1 / step, "odd": math.nan if step == 2 else math.inf}
        writer.write(step, {**values, "speed/images_per_second": 10 * step})


def add_pictures_and_tables(run, step):
    Image.new("RGB", (600, 8), "red").save(run.pictures / f"held-out-step-{step}.png")
    columns = ["is", "called", "count", "share"]
    rows = [["cat", "dog", 3, 0.75], ["cat", "cat", 1, 0.25]]
    write_table(run, "classification-confusion", step, columns, rows)


def follower(run, tracker="mlflow", **tracking):
    return build_follower(run, TrackingConfig(tracker=tracker, **{"tags": TAGS, **tracking}))


def client_of(storage):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")


def tracked(storage, name, tag="tap.run"):
    client = client_of(storage)
    experiment = client.get_experiment_by_name("scenes")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{name}'")
    return client, run


def test_both_trackers_hold_the_same_of_a_run(storage):
    run = make_run(storage, "parity", {"sweep": "gone", "trial": "t0001"})
    write_steps(run, range(1, 4))
    MetricsWriter(run.metrics, 1).write(3, {"box_iou": 0.5}, kind="val")
    add_pictures_and_tables(run, 3)
    for tracker in ("mlflow", "wandb"):
        follower(run, tracker).sync()
    # The run is cut, takes other values, and measures the last steps again.
    update_status(run.status, state="running", attempt=run.begin_attempt())
    tree = read_json(run.config)
    was, tree["optimizer"]["lr"] = tree["optimizer"]["lr"], 0.25
    write_json(run.config, tree)
    events = EventLog(run.events, attempt=1)
    events.record("changed", changes={"optimizer.lr": [was, 0.25]})
    events.record("exploited", number=1, trial="t0000", step=3)
    write_steps(run, range(3, 7), attempt=2)
    (run.report / "index.html").write_text("<p>the page")
    update_status(run.status, state="finished")
    for tracker in ("mlflow", "wandb"):
        follower(run, tracker).sync()
        assert follower(run, tracker).sync() == 0

    client, shown = tracked(storage, "parity")
    ours, theirs = mlflow_content(client, shown), wandb_content(run)
    for field in ours._fields:
        if field != "times":
            assert getattr(ours, field) == getattr(theirs, field), field
    for name, times in ours.times.items():
        assert times == pytest.approx(theirs.times[name], abs=1e-3), name

    assert ours.params["optimizer.lr"] == "0.25"
    assert ours.metrics["train/loss"] == [(step, str(1 / step)) for step in range(1, 7)]
    assert ours.metrics["changed/optimizer.lr"] == [(0, str(was)), (3, "0.25")]
    assert [step for step, _ in ours.metrics["time/seconds"]] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in ours.metrics["system/workers"]] == ["2.0"] * 6
    assert ours.pictures.keys() == {("held-out", 3)}
    assert ours.tables["classification-confusion", 3]["data"][0] == ["cat", "dog", 3, 0.75]
    assert ours.files.keys() == {
        "config.json",
        "provenance.json",
        "events.jsonl",
        "settings.md",
        "report/index.html",
    }
    assert ours.data == {
        ("scenes", "/data/scenes", "ab" * 32),
        ("vocabulary", "vocabulary", "cd" * 32),
    }
    assert (ours.tags["team"], ours.tags["cost_centre"]) == ("vision", "4711")
    assert (ours.tags["trial"], ours.tags["data.hash"]) == ("t0001", "ef")
    owner = read_json(run.provenance)["owner"]
    assert ours.tags["owner"] == shown.data.tags["mlflow.user"] == owner
    revision = provenance.collect().git_revision
    assert (wandb_run_record(run).git.commit or None) == revision
    assert shown.data.tags.get("mlflow.source.git.commit") == revision


KILLED_AFTER = """
import os, sys
from pathlib import Path
from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.tracking import build_follower

follower = build_follower(RunDirectory(Path(sys.argv[1])), TrackingConfig())
for name in sys.argv[2:]:
    def send(*told, really=getattr(follower.tracker, name)):
        really(*told)
        os.kill(os.getpid(), 9)
    setattr(follower.tracker, name, send)
follower.sync()
"""


@pytest.mark.parametrize("sent", ["log_metrics", "log_picture", "log_table", "log_data"])
def test_what_was_sent_before_a_kill_is_there_once(storage, sent):
    run = make_run(storage, f"killed-after-{sent}")
    write_steps(run, range(1, 4))
    add_pictures_and_tables(run, 3)
    events = EventLog(run.events, attempt=1)
    events.record("changed", changes={"optimizer.lr": [0.1, 0.25]})
    events.record("exploited", number=1, trial="t0000", step=3)
    command = [sys.executable, "-c", KILLED_AFTER, run.path, sent]
    assert subprocess.run(command, check=False).returncode == -9
    update_status(run.status, state="running", attempt=run.begin_attempt())
    write_steps(run, range(2, 6), attempt=2)
    update_status(run.status, state="finished")
    follower(run).sync()
    client, shown = tracked(storage, run.name)
    content = mlflow_content(client, shown)
    assert [step for step, _ in content.metrics["train/loss"]] == [1, 2, 3, 4, 5]
    assert len(content.pictures) == len(content.tables) == 1
    assert len(content.data) == len(shown.inputs.dataset_inputs) == 2
    query = "SELECT key, step FROM metrics WHERE run_uuid = ?"
    with closing(sqlite3.connect(storage / "mlflow.db")) as database:
        points = database.execute(query, (shown.info.run_id,)).fetchall()
    assert len(points) == len(set(points))


def test_values_that_a_population_changes_are_curves_in_mlflow(storage):
    run = make_run(storage, "population")
    base = read_json(run.config)["optimizer"]["lr"]
    was = base
    for number, lr in enumerate((0.02, 0.03, 0.024), start=1):
        write_steps(run, range(10 * number - 9, 10 * number + 1), attempt=number)
        follower(run).sync()
        tree = read_json(run.config)
        tree["optimizer"]["lr"] = lr
        write_json(run.config, tree)
        events = EventLog(run.events, attempt=number)
        events.record("changed", changes={"optimizer.lr": [was, lr]})
        events.record("exploited", number=number, trial="t0002", step=10 * number)
        was = lr
        update_status(run.status, state="running", attempt=run.begin_attempt())
    update_status(run.status, state="finished")
    follower(run).sync()
    client, shown = tracked(storage, "population")
    curve = mlflow_content(client, shown).metrics["changed/optimizer.lr"]
    assert curve == [(0, str(base)), (10, "0.02"), (20, "0.03"), (30, "0.024")]
    assert shown.data.params["optimizer.lr"] == str(base)
    assert shown.data.tags["changed.optimizer.lr"] == "0.024"
    assert shown.data.tags["changes"].count("(weights of t0002)") == 3
    assert shown.info.status == "FINISHED"


def test_what_people_deleted_in_mlflow_is_told_with_the_way_back(storage):
    run = make_run(storage, "deleted")
    write_steps(run, [1])
    follower(run).sync()
    client, shown = tracked(storage, "deleted")
    client.delete_run(shown.info.run_id)
    write_steps(run, [2])
    with pytest.raises(ValueError, match=f"runs restore --run-id {shown.info.run_id}"):
        follower(run).sync()
    client.restore_run(shown.info.run_id)
    follower(run).sync()

    other = RunDirectory.create(storage, "elsewhere", "orphan")
    write_json(other.config, load_job(JOB).model_dump(mode="json"))
    experiment = client.create_experiment("elsewhere")
    client.delete_experiment(experiment)
    write_steps(other, [1])
    background = follower(other, interval=0.01)
    background.start()
    update_status(other.status, state="finished")
    assert not background.stop(20)
    (told,) = read_events(other.events, "tracking_failed")
    assert f"experiments restore -x {experiment}" in told["error"]


def test_a_store_that_is_none_is_told(tmp_path):
    run = make_run(tmp_path, "broken")
    write_steps(run, [1])
    (tmp_path / "mlflow.db").write_text("not a database, but as long as the head of one" * 30)
    with pytest.raises(TrackerRefusedError, match=r"mlflow\.db is no database of MLflow"):
        follower(run).sync()


# Sweeps


def make_sweep(storage, name, tracker="mlflow"):
    folder = storage / "scenes" / "sweeps" / name
    (folder / "report").mkdir(parents=True)
    write_status(folder / "status.json", RunStatus(state="running", attempt=1))
    write_json(
        folder / "sweep.json",
        {
            "name": name,
            "base": {"name": "scenes", "tracking": {"tracker": tracker, "interval": 0.05}},
            "space": {"optimizer.lr": {"log_uniform": [1e-4, 1e-2]}},
            "objective": {"metric": "val/box_iou", "mode": "max"},
            "scheduler": {"type": "asha", "grace_steps": 30},
            "budget": {"trials": 3},
        },
    )
    return folder


def tell(folder, trial, state, objective, what, step=30):
    told = {"trial": trial, "run": f"{folder.name}-{trial}", "state": state, "step": step}
    line = {**told, "values": {"optimizer.lr": 10.0 ** -int(trial[-1])}, "objective": objective}
    more = {"time": utc_now(), "what": what, "reason": ""}
    append_line(folder / "trials.jsonl", record_line({**line, **more}))


def run_trials(folder):
    for number, (state, objective) in enumerate(
        [("finished", 0.5), ("failed", None), ("stopped", 0.4), ("finished", 0.6)], start=1
    ):
        tell(folder, f"t000{number}", "running", None, "started", 0)
        what = "measured" if state == "stopped" else "ended"
        tell(folder, f"t000{number}", state, objective, what, 30 * number)
    (folder / "report" / "trials.md").write_text("| trial |")
    update_status(folder / "status.json", state="finished")


def test_mlflow_shows_a_sweep_above_its_trials(storage):
    folder = make_sweep(storage, "lr")
    trial = make_run(storage, "lr-t0001", {"sweep": "lr", "trial": "t0001"})
    write_steps(trial, [1])
    follower(trial).sync()
    _, above = tracked(storage, "lr", "tap.sweep")
    with tracked_sweep(folder, TrackingConfig(interval=0.05)):
        run_trials(folder)
    assert sync_run("lr", str(storage)) == 0
    client, parent = tracked(storage, "lr", "tap.sweep")
    _, child = tracked(storage, "lr-t0001")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id == above.info.run_id
    assert (child.data.tags["job_type"], parent.data.tags["job_type"]) == ("trial", "sweep")
    assert parent.info.status == "FINISHED"
    content = mlflow_content(client, parent)
    assert content.params["space.optimizer.lr.log_uniform"] == "[0.0001, 0.01]"
    assert content.params["objective.metric"] == "val/box_iou"
    assert content.metrics["sweep/best_objective"] == [
        (1, "0.5"),
        (2, "0.5"),
        (3, "0.5"),
        (4, "0.6"),
    ]
    assert content.metrics["sweep/objective"] == [(1, "0.5"), (3, "0.4"), (4, "0.6")]
    assert (content.tags["best.trial"], content.tags["best.optimizer.lr"]) == ("t0004", "0.0001")
    assert [row[0] for row in content.tables["trials", 4]["data"]] == [
        f"t000{i}" for i in range(1, 5)
    ]
    assert content.files.keys() == {"sweep.json", "trials.jsonl", "report/trials.md"}
    assert "best: **0.6**, trial t0004" in content.note


def test_both_trackers_hold_the_same_of_a_sweep(storage):
    ours = make_sweep(storage, "same-mlflow")
    theirs = make_sweep(storage, "same-wandb", "wandb")
    for folder in (ours, theirs):
        run_trials(folder)
        assert sync_run(str(folder)) > 0
        assert sync_run(str(folder)) == 0
    client, parent = tracked(storage, "same-mlflow", "tap.sweep")
    first, second = mlflow_content(client, parent), wandb_content(RunDirectory(theirs))
    assert first.metrics == second.metrics
    assert first.params.keys() == second.params.keys()
    assert first.tags.keys() == second.tags.keys()
    assert first.files.keys() == second.files.keys()
    assert first.tables.keys() == second.tables.keys()


def test_wandb_groups_a_sweep_and_its_trials(storage):
    folder = make_sweep(storage, "grouped", "wandb")
    trial = make_run(storage, "grouped-t0001", {"sweep": "grouped", "trial": "t0001"})
    write_steps(trial, [1])
    update_status(trial.status, state="finished")
    follower(trial, "wandb").sync()
    run_trials(folder)
    sync_run("grouped", str(storage))
    above, below = (wandb_run_record(RunDirectory(path)) for path in (folder, trial.path))
    assert (above.run_group, above.job_type, above.run_id) == ("grouped", "sweep", "sweep-grouped")
    assert (below.run_group, below.job_type, below.run_id) == ("grouped", "trial", "grouped-t0001")


def test_trackers_are_not_imported_before_they_are_needed():
    code = (
        "import sys; import tap_platform.cli, tap_platform.runs.tracking.sync,"
        " tap_platform.registry.promote, tap_platform.registry.register;"
        "print([name for name in ('mlflow', 'wandb', 'torch', 'ray') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"
