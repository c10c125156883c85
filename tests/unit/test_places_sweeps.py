"""Sweeps beside runs: `tap ps`, `describe`, `logs` and `stop` of a sweep, from its directory."""

from __future__ import annotations

import json
import signal
import subprocess

import psutil
import pytest
from sweep_specs import sweep

from tap_platform.places.local_records import LocalRecord
from tap_platform.places.place import PlaceState, Submission
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import write_json
from tap_platform.runs.status import RunStatus, driver_identity, update_status, write_status
from tap_platform.runs.sweep_account import sweep_account
from tap_platform.sweeps.directory import LINK, SweepDirectory
from tap_platform.sweeps.records import TrialRecord, append_record, changed
from tap_platform.sweeps.trial_jobs import trial_job


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of somebody's own, who has submitted nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def search(tmp_path):
    """A sweep of four trials: one is finished, one failed, one trains, one is to come."""
    config = sweep(tmp_path, budget={"hours": 2.0})
    made = SweepDirectory.at(tmp_path / "runs", "tap", "small")
    made.create(config)
    events = EventLog(made.as_run.events, made.as_run.begin_attempt())
    events.record("started")
    events.record("alive")
    update_status(made.as_run.status, state="running", max_steps=4, step=2)
    trial(made, 0, ("started", "running"), ("measured", "running", 0.5, 9), ("ended", "finished"))
    trial(made, 1, ("started", "running"), ("measured", "running", 0.1, 3), ("ended", "failed"))
    trial(made, 2, ("started", "running"), ("measured", "running", 0.75, 3))
    return made


def trial(made, number, *happened):
    name = f"t{number:04}"
    run = RunDirectory.create(made.runs.parent, "tap", f"small-{name}")
    write_json(run.path / LINK, {"sweep": "small", "trial": name})
    values = {"optimizer.lr": 0.001 * (number + 1)}
    state, time = "pending", "2026-11-22T11:02:33.000+00:00"
    record = TrialRecord(trial=name, run=run.name, state=state, values=values, objective=None,
                         step=0, time=time, what="suggested")  # fmt: skip
    append_record(made.trials, record)
    for what, state, *measured in happened:
        told = dict(zip(("objective", "step"), measured, strict=False))
        reason = "out of memory" if state == "failed" else ""
        record = changed(record, what, state=state, reason=reason, **told)
        append_record(made.trials, record)
    ended = record.state in ("finished", "failed")
    write_status(run.status, RunStatus(state=record.state if ended else "running"))


def said(tap, *arguments):
    status, output, errors = tap(*arguments)
    assert status == 0, errors
    return output


def refusal(tap, *arguments):
    status, _, errors = tap(*arguments)
    assert status == 2
    return errors


def test_a_sweep_is_one_line_and_its_trials_are_those_that_train(tap, search):
    told = said(tap, "ps")
    (line,) = (line for line in told.splitlines() if line.startswith("small "))
    assert "running" in line
    assert "2 of 4 trials" in line
    assert "small: the best is small-t0000, train/loss 0.5 at step 9" in told
    assert "small-t0002" in told
    assert "small-t0001" not in told
    assert "2 more, trials that have ended" in told
    assert "small-t0001" in said(tap, "ps", "--all")


def test_programs_are_told_which_is_the_sweep(tap, search):
    told = [json.loads(line) for line in said(tap, "ps", "--all", "--json").splitlines()]
    found = {each["run"]: (each["kind"], each["project"], each["sweep"]) for each in told}
    assert found["small"] == ("sweep", "tap", None)
    assert found["small-t0002"] == ("run", "tap", "small")


def test_all_that_is_known_of_a_sweep(tap, search):
    told = said(tap, "describe", "small")
    facts = {line[:15].strip(): line[15:] for line in told.splitlines()}
    assert facts["sweep"] == "small"
    assert facts["project"] == "tap"
    assert facts["trials"] == "2 of 4 trials are over (1 running, 1 finished, 1 failed)"
    assert facts["best"] == "small-t0000, train/loss 0.5 at step 9"
    assert facts["its values"] == "optimizer.lr=0.001"
    assert facts["budget"] == "hours 0.00 of 2"
    assert facts["directory"] == str(search.path)
    assert "out of memory" in told
    assert told.index("small-t0002") < told.index("small-t0001")
    assert "alive" not in told
    assert said(tap, "describe", search.path) == told


def test_all_that_is_known_of_a_trial(tap, search):
    told = said(tap, "describe", "small-t0002")
    assert "trial of       small" in told


def test_the_log_of_a_terminals_sweep_tells_what_became_of_trials(tap, search):
    told = said(tap, "logs", "small").splitlines()
    assert told[0] == "2026-11-22 11:02:33  t0000  is to try optimizer.lr=0.001"
    assert [line.partition("  ")[2] for line in told[1:4]] == [
        "t0000  started: small-t0000",
        "t0000  measured 0.5 at step 9",
        "t0000  finished",
    ]
    assert told[-4].endswith("t0001  failed: out of memory")
    assert "tap logs small-t0000 --rank 1" in refusal(tap, "logs", "small", "--rank", "1")


def test_a_log_is_followed_until_the_sweep_ends(tap, search):
    update_status(search.as_run.status, state="finished")
    assert said(tap, "logs", "small", "-f") == said(tap, "logs", "small")


def test_what_a_sweeps_driver_printed_goes_before_its_records(tap, search):
    search.as_run.driver_log(1).write_text("4 trials, 2 at once\n")
    assert said(tap, "logs", "small") == "4 trials, 2 at once\n"


def test_a_sweep_without_trials_has_no_log_yet(tap, search):
    search.trials.unlink()
    assert refusal(tap, "logs", "small").count("has no trials yet") == 1
    assert "trials         0 of 4 trials are over\n" in said(tap, "describe", "small")


@pytest.fixture
def driver():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def driven_by(run, driver, **changes):
    started = psutil.Process(driver.pid).create_time()
    who = {**driver_identity(), "pid": driver.pid, "process_started": started, **changes}
    update_status(run.status, state="running", **who)


def test_a_sweep_of_a_terminal_is_stopped_by_its_name(tap, search, driver):
    driven_by(search.as_run, driver)
    told = said(tap, "stop", "small")
    assert (
        told == "small has 30 s to write a checkpoint; it goes on with: tap sweep --resume small\n"
    )
    assert driver.wait() == -signal.SIGTERM
    told = said(tap, "describe", "small")
    assert "is gone; after 2 of 4 trials; go on from its last checkpoint: tap sweep --" in told
    assert "2 of 4 trials are over (1 cut short, 1 finished, 1 failed)" in told
    assert "small has ended (stopped)" in refusal(tap, "stop", "small")
    assert "go on with it by tap sweep --resume small" in refusal(tap, "resubmit", "small")


def test_a_run_of_a_terminal_is_stopped_so_too(tap, tmp_path, driver):
    run = RunDirectory.create("runs", "tap", "alone")
    write_json(run.config, {"scale": {"grace_seconds": 5}})
    driven_by(run, driver)
    assert said(tap, "stop", "alone") == (
        "alone has 5 s to write a checkpoint; it goes on with: tap train --resume alone\n"
    )
    assert driver.wait() == -signal.SIGTERM


def test_how_a_run_goes_on_is_told_once(tap):
    run = RunDirectory.create("runs", "tap", "alone")
    update_status(run.status, state="interrupted", message="stopped; tap train --resume alone")
    told = said(tap, "describe", "alone")
    assert told.count("tap train --resume alone") == 1


def test_a_trial_is_not_stopped_alone(tap, search, driver):
    driven_by(search.run("small-t0002"), driver)
    assert "stop the sweep, tap stop small" in refusal(tap, "stop", "small-t0002")
    assert driver.poll() is None


def test_a_driver_of_another_host_is_stopped_there(tap, search, driver):
    driven_by(search.as_run, driver, host="elsewhere")
    assert "call tap stop small there" in refusal(tap, "stop", "small")
    assert driver.poll() is None


def test_broken_files_are_told_and_hide_nothing_else(tap, search):
    with search.trials.open("a") as file:
        file.write(
            '{"trial": "t0003"}\n{"trial": "t0003", "objective": "many", "state": "x"}\n{"tr'
        )
    search.spec.write_text("{")
    account = sweep_account(search.path)
    assert (account.metric, account.best.run, len(account.trials)) == ("", "small-t0002", 3)
    assert any("2 lines that are no trial's record" in fault for fault in account.faults)
    told = said(tap, "describe", "small")
    assert "sweep.json is not valid JSON" in told
    assert "budget         not known: " in told
    assert "small-t0002" in told
    assert "2 of 4 trials" in said(tap, "ps")


def test_the_lowest_or_the_highest_is_best_and_no_failure(search):
    assert [each.name for each in sweep_account(search.path).trials] == ["t0000", "t0002", "t0001"]
    search.write_config(sweep(search.runs.parents[1], objective={"mode": "max"}))
    assert [each.name for each in sweep_account(search.path).trials] == ["t0002", "t0000", "t0001"]
    nan = '{"trial": "t0002", "state": "running", "objective": NaN}\n'
    with search.trials.open("a") as file:
        file.write(nan)
    assert sweep_account(search.path).best.name == "t0000"


def test_a_folder_that_is_no_run(tap, tmp_path):
    assert "it has no status.json" in refusal(tap, "describe", tmp_path)


def test_a_name_that_is_nearly_right(tap, search):
    assert "did you mean small" in refusal(tap, "describe", "smal")


def test_a_submitted_sweep_lies_in_the_folder_of_sweeps(tmp_path):
    config = sweep(tmp_path)
    job = trial_job(config, {})
    submission = Submission("small", "tap", "sweep", ("tap",), {}, job, None, "me@here")
    assert submission.lies == "tap/sweeps/small"
    record = LocalRecord.of(submission, psutil.Process().pid)
    assert record.run_directory == tmp_path / "runs" / "tap" / "sweeps" / "small"
    said = PlaceState("small", "tap", "running", "", None, "cpu", "/mnt/tap/sweeps/small", None, "")
    assert (said.is_sweep, said.lies) == (True, "tap/sweeps/small")
