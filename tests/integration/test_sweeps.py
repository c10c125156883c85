"""Sweeps on Ray Tune: with trials that cost nothing, and one with runs that are real."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from rich.console import Console
from tiny_model import MODEL
from whole_runs import assert_gone, losses, starts, wait_until

from tap_platform.config.load import merge
from tap_platform.launch.errors import RunFailedError
from tap_platform.runs.events import read_events
from tap_platform.runs.files import read_json
from tap_platform.runs.status import read_status
from tap_platform.sweeps.directory import SweepDirectory
from tap_platform.sweeps.live_trial import REAL
from tap_platform.sweeps.records import newest_records, read_history
from tap_platform.sweeps.sweep import resume_sweep, start_sweep, sweep_named

CHEAP = "cheap_trials:CheapTrial"
RANGES = {
    "optimizer.lr": {"log_uniform": [1e-4, 1e-1]},
    "optimizer.weight_decay": {"uniform": [0.0, 0.5]},
}
ASHA = {"type": "asha", "grace_steps": 1, "reduction": 3}


@pytest.fixture
def spec(tmp_path):
    def write(**changes):
        base = {
            "name": "small",
            "storage": str(tmp_path / "runs"),
            "model": MODEL,
            "data": {"source": "shards", "path": str(tmp_path), "reader_tasks": 0},
            "training": {"max_steps": 9, "global_batch": 8, "log_every": 1},
            "scale": {"device": "cpu", "grace_seconds": 5},
            "tracking": {"tracker": "none"},
        }
        tree = {
            "name": "small",
            "base": base,
            "space": RANGES,
            "objective": {"metric": "train/loss", "mode": "min"},
            "budget": {"trials": 9},
            "at_once": 1,
        }
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(merge(tree, changes)))
        return path

    return write


def history(sweep):
    return [record.model_dump(exclude={"time"}) for record in read_history(sweep.trials)]


def steps_made(sweep, trial):
    lines = (sweep.run(f"{sweep.name}-{trial}").path / "steps").read_text().splitlines()
    return [int(line.split()[0]) for line in lines]


def console():
    return Console(file=io.StringIO(), width=200)


@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_stops_bad_trials_and_frees_what_they_held(spec, tmp_path):
    out = console()
    six = {"trials": 6}
    sweep = start_sweep(
        spec(scheduler=ASHA, budget=six, at_once=None, base={"scale": {"workers": 2}}),
        console=out,
        runner=CHEAP,
    )
    newest = newest_records(sweep.trials)
    assert len(newest) == 6
    assert {each.state for each in newest} == {"finished", "stopped"}
    assert read_status(sweep.as_run.status).state == "finished"
    assert read_json(sweep.spec)["space"]["optimizer.lr"]["log_uniform"] == [1e-4, 1e-1]
    for each in newest:
        made = steps_made(sweep, each.trial)
        assert made == list(range(1, len(made) + 1))
        assert len(made) >= each.step
    free = ray.available_resources()
    wait_until(lambda: ray.available_resources().get("CPU") == 6, f"all CPUs, not {free}", 30)
    told = out.file.getvalue()
    assert "3 at once" in told  # six CPUs, two for a trial
    assert "stopped" in told
    assert str(min(newest, key=lambda r: r.objective).run) in told
    assert "| t0000 |" in (sweep.report / "trials.md").read_text()


@pytest.mark.usefixtures("ray_cluster")
def test_trials_that_are_in_trouble_leave_the_others_alone(spec):
    """A driver that died goes on from its checkpoint; what fails for good says why."""
    path = spec(budget={"trials": 5}, at_once=2)
    sweep = start_sweep(path, console=console(), runner="cheap_trials:Troubled")
    newest = {each.trial: each for each in newest_records(sweep.trials)}
    states = [newest[f"t000{number}"].state for number in range(5)]
    assert states == ["finished", "finished", "failed", "failed", "finished"]
    assert "no shards" in newest["t0002"].reason
    assert "train/loss is nan at step 3" in newest["t0003"].reason
    assert steps_made(sweep, "t0001") == list(range(1, 10))
    measured = [(r.trial, r.step) for r in read_history(sweep.trials) if r.what == "measured"]
    assert len(measured) == len(set(measured)) == 3 * 9 + 2 + 2


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_budget_of_hours_ends_a_sweep_before_it_is_exceeded(spec, monkeypatch):
    from tap_platform.sweeps import budget

    monkeypatch.setattr(budget, "ENDING_SECONDS", 1.0)
    path = spec(
        budget={"trials": None, "hours": 12 / 3600}, base={"training": {"max_steps": 100000}}
    )
    began = time.monotonic()
    sweep = start_sweep(path, console=console(), runner=CHEAP)
    assert time.monotonic() - began < 14
    (only,) = newest_records(sweep.trials)
    assert (only.state, only.reason) == ("stopped", "budget.hours 0.00333333 is used up")
    seen = read_events(sweep.as_run.events)
    assert seen[-1]["kind"] == "finished"


@pytest.mark.usefixtures("ray_cluster")
def test_two_sweeps_of_one_name_are_refused(spec, tmp_path):
    path = spec(budget={"trials": 1})
    sweep = start_sweep(path, console=console(), runner=CHEAP)
    with pytest.raises(
        ValueError, match=r"there is a sweep small already.*tap sweep --resume small"
    ):
        start_sweep(path, console=console(), runner=CHEAP)
    assert len(newest_records(sweep.trials)) == 1
    with pytest.raises(ValueError, match="another sweep than"):
        sweep_named(path, "small", ["search.seed=3"], console=console(), runner=CHEAP)
    more = ["budget.trials=2"]
    assert sweep_named(path, "small", more, console=console(), runner=CHEAP) == sweep
    assert len(newest_records(sweep.trials)) == 2
    storage = str(tmp_path / "runs")
    with pytest.raises(ValueError, match="would make small another sweep"):
        resume_sweep("small", ["search.seed=3"], storage)
    with pytest.raises(ValueError, match="did you mean small"):
        resume_sweep("smal", (), storage)


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_population_trains_side_by_side(spec):
    pbt = {"type": "pbt", "every_steps": 3}
    sweep = start_sweep(
        spec(scheduler=pbt, budget={"trials": 4}, at_once=None),
        console=console(),
        runner="cheap_trials:Together",
    )
    records = read_history(sweep.trials)
    assert {each.state for each in newest_records(sweep.trials)} == {"finished"}
    assert any(each.exploit for each in records)
    with pytest.raises(ValueError, match="side by side, and there is room for 6"):
        start_sweep(
            spec(name="large", scheduler=pbt, budget={"trials": 9}, at_once=None),
            console=console(),
            runner=CHEAP,
        )


def driver(path, step_seconds, runner=CHEAP):
    """A sweep in a process of its own, with a Ray of its own."""
    begin = (
        "import sys; from pathlib import Path; from tap_platform.sweeps.sweep import sweep_named;"
        " sweep_named(Path(sys.argv[1]), 'small', runner=sys.argv[2])"
    )
    environment = {
        **os.environ,
        "TEST_STEP_SECONDS": str(step_seconds),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    return subprocess.Popen(
        [sys.executable, "-c", begin, str(path), runner],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def family_of(driver):
    """Its processes, but for two of Ray's that call a head which is gone for a minute."""
    family = psutil.Process(driver.pid).children(recursive=True)
    return [each for each in family if not each.name().endswith("Agent")]


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_whose_driver_is_killed_decides_what_an_unhurt_one_does(spec, tmp_path, how):
    path = spec(
        scheduler=ASHA, search={"type": "optuna", "startup_trials": 3}, budget={"trials": 8}
    )
    whole = driver(path, 0)
    out, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, out
    sweep = SweepDirectory.at(tmp_path / "runs", "tap", "small")
    expected = history(sweep)
    for each in [sweep.path, *sweep.runs.glob("small-t*")]:
        each.rename(tmp_path / each.name)
    for measures in (4, 15):
        cut = driver(path, 0.3)
        wait_until(lambda least=measures: _measures(sweep) >= least, f"{measures} measures")
        family = family_of(cut)
        cut.send_signal(how)
        out, _ = cut.communicate(timeout=120)
        assert cut.returncode != 0
        assert_gone(family, 60)
        assert read_status(sweep.as_run.status).state == "interrupted"
    rest = driver(path, 0)
    out, _ = rest.communicate(timeout=300)
    assert rest.returncode == 0, out
    assert history(sweep) == expected
    assert read_status(sweep.as_run.status).attempt == 3


def _measures(sweep):
    return (
        sum(r.what == "measured" for r in read_history(sweep.trials))
        if sweep.trials.exists()
        else 0
    )


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_of_failures_alone_has_failed(spec):
    path = spec(budget={"trials": 2})
    with pytest.raises(RunFailedError, match="all 2 trials failed"):
        start_sweep(path, console=console(), runner="cheap_trials:NoSuchTrial")


def real(spec, make_job, **changes):
    """The file of a sweep whose trials are runs of few steps on small scenes."""
    job = make_job(
        "small",
        training={"max_steps": 8},
        evaluation={"every_steps": 2, "images": 4, "page": False},
        checkpoint={"every_steps": 2},
        scale={"grace_seconds": 60},
    )
    base = job.model_dump(mode="json")
    tree = yaml.safe_load(spec().read_text()) | {
        "base": base,
        "space": {"optimizer.lr": {"grid": [1e-7, 1e-3]}},
        "objective": {"metric": "train/loss", "mode": "min"},
        "search": {"type": "grid"},
        **changes,
    }
    path = spec()
    path.write_text(yaml.safe_dump(tree))
    return path, Path(base["storage"])


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_real_trials_are_runs_whose_workers_end_with_them(spec, make_job):
    """Two trials of two workers; the worse one is stopped, and leaves a checkpoint."""
    path, _ = real(spec, make_job, at_once=2, scheduler={**ASHA, "grace_steps": 4, "reduction": 2})
    path.write_text(path.read_text().replace("workers: 1", "workers: 2"))
    sweep = start_sweep(path, ["name=real"], console=console())
    by_state = {each.state: each for each in newest_records(sweep.trials)}
    assert set(by_state) <= {"finished", "stopped"}
    for record in newest_records(sweep.trials):
        run = sweep.run(record.run)
        assert read_json(run.path / "sweep.json") == {"sweep": "real", "trial": record.trial}
        assert read_json(run.config)["optimizer"]["lr"] == record.values["optimizer.lr"]
        assert record.objective == pytest.approx(losses(run)[record.step])
        newest = max(int(each.name[5:]) for each in run.checkpoints.glob("step-*"))
        assert newest >= record.step
        assert not run_processes(run)
    wait_until(lambda: ray.available_resources().get("CPU") == 6, "all CPUs", 30)


def run_processes(run):
    """Workers of a run that still live."""
    pids = {each["pid"] for each in read_events(run.events, "training")}
    return [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.long
def test_a_killed_sweep_goes_on_from_its_trials_checkpoints(spec, make_job):
    path, storage = real(spec, make_job, at_once=1)
    sweep = SweepDirectory.at(storage, "tap", "small")
    cut = driver(path, 0, REAL)
    first = sweep.run("small-t0000")
    wait_until(
        lambda: (
            any(each["step"] >= 4 for each in read_events(first.events, "checkpoint"))
            if first.events.exists()
            else None
        ),
        "a checkpoint",
        240,
    )
    family = family_of(cut)
    os.kill(cut.pid, signal.SIGKILL)
    cut.communicate(timeout=60)
    assert_gone(family, 60)
    rest = driver(path, 0, REAL)
    out, _ = rest.communicate(timeout=400)
    assert rest.returncode == 0, out
    records = newest_records(sweep.trials)
    assert [each.state for each in records] == ["finished", "finished"]
    assert int(starts(first)[-1].removeprefix("step-")) >= 4
    assert len(losses(first)) == 8
    measured = [(r.trial, r.step) for r in read_history(sweep.trials) if r.what == "measured"]
    assert measured == [(trial, step) for trial in ("t0000", "t0001") for step in range(1, 9)]


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_real_population_goes_on_from_its_best(spec, make_job):
    path, _ = real(
        spec,
        make_job,
        search={"type": "random"},
        budget={"trials": 2},
        at_once=2,
        scheduler={"type": "pbt", "every_steps": 20, "quantile": 0.5},
    )
    # So many steps that the first to start still trains when the last one does.
    longer = ["base.training.max_steps=80", "base.evaluation.every_steps=80"]
    sweep = start_sweep(path, ["name=people", *longer], console=console())
    records = newest_records(sweep.trials)
    assert [each.state for each in records] == ["finished", "finished"], records
    exploits = [each for each in read_history(sweep.trials) if each.exploit]
    assert exploits
    for each in exploits:
        run = sweep.run(each.run)
        events = read_events(run.events, "exploited")
        assert each.exploit.number in {event["number"] for event in events}
        assert f"step-{each.exploit.step}" in starts(run)
        assert (
            read_json(run.config)["optimizer"]["lr"] == records[each.number].values["optimizer.lr"]
        )


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_an_objective_that_is_never_logged_ends_the_sweep(spec, make_job):
    path, _ = real(spec, make_job, objective={"metric": "train/lost", "mode": "min"})
    with pytest.raises(
        RunFailedError, match=r"train/lost was never recorded; what was: .*train/loss"
    ):
        start_sweep(path, ["name=blind"], console=console())
    sweep = SweepDirectory.find(Path(yaml.safe_load(path.read_text())["base"]["storage"]), "blind")
    assert [each.state for each in newest_records(sweep.trials)] == ["failed"]
