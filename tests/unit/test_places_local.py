"""Runs on this computer: processes that are started, seen, heard and stopped."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil
import pytest
import yaml

from tap_platform.places.local import LocalPlace
from tap_platform.places.local_records import read_record, recorded_runs, submission_folder
from tap_platform.places.log_files import driver_lines, file_lines, rank_lines
from tap_platform.places.place import Submission
from tap_platform.places.states import _is_of_earlier
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import driver_identity, read_status, update_status
from tests.chaos.processes import wait_until

RUN = "tiny-20261121-153000-a1b2"
WAITS = ("sh", "-c", "echo here; exec sleep 60")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """This computer, with a memory of its own; drivers that live on are ended."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield LocalPlace()
    for run in recorded_runs():
        with suppress(psutil.NoSuchProcess):
            driver_of(run).kill()
            driver_of(run).wait()


@pytest.fixture
def submission(tmp_path, make_job):
    def make(*command, run=RUN):
        job = make_job("tiny", storage=str(tmp_path / "runs"), project="trials")
        files = {"job.json": job.model_dump_json()}
        return Submission(run, "trials", "train", command, files, job, None, "ann@desk")

    return make


def driver_of(run):
    return psutil.Process(read_record(run).driver.pid)


def run_of(driver, tmp_path, **status):
    """The directory of the run, as a driver would have made it."""
    run = RunDirectory.create(tmp_path / "runs", "trials", RUN)
    who = {**driver_identity(), "pid": driver.pid, "process_started": driver.create_time()}
    update_status(run.status, **who, **status)
    return run


def test_a_driver_outlives_us_and_finds_its_files(place, submission):
    place.submit(submission("sh", "-c", "echo $PWD; wc -c < job.json; exec sleep 60"))
    folder, size = islice(place.logs(RUN, follow=True, rank=None), 2)
    assert folder == str(submission_folder(RUN))
    assert int(size) == len(submission().files["job.json"])
    driver = driver_of(RUN)
    assert os.getsid(driver.pid) == driver.pid
    state = place.state(RUN)
    assert (state.state, state.project, state.by) == ("starting", "trials", "ann@desk")
    assert [each.run for each in place.states()] == [RUN]


def test_the_program_is_the_one_of_this_environment(place, submission):
    told = yaml.safe_load(place.render(submission("tap", "train", "./job.json", "--run", RUN)))
    tap = Path(sys.executable).with_name("tap")
    assert told["command"] == f"{tap} train ./job.json --run {RUN}"
    assert told["files"].keys() == {"job.json"}
    assert not submission_folder(RUN).exists()


def test_a_run_is_driven_once_at_a_time(place, submission):
    place.submit(submission(*WAITS))
    first = driver_of(RUN)
    with pytest.raises(ValueError, match=f"{RUN} is being trained already, by process {first.pid}"):
        place.submit(submission(*WAITS))
    place.stop(RUN, grace=30)
    assert first.wait() == -signal.SIGTERM
    place.submit(submission(*WAITS))
    assert driver_of(RUN).pid != first.pid


def test_a_driver_that_fails_before_it_has_a_run_says_why(place, submission):
    place.submit(submission("sh", "-c", "echo 'tap: no data in /data'; exit 2"))
    assert list(place.logs(RUN, follow=True, rank=None)) == ["tap: no data in /data"]
    state = place.state(RUN)
    assert state.state == "failed"
    assert state.why == f"no data in /data (log: {submission_folder(RUN)}/driver.log)"


def test_a_driver_that_is_stopped_before_it_has_a_run(place, submission):
    place.submit(submission(*WAITS))
    driver = driver_of(RUN)
    place.stop(RUN, grace=30)
    driver.wait()
    assert place.state(RUN)[2:4] == ("stopped", "before it had begun")
    with pytest.raises(ValueError, match="has ended: there is nothing to stop"):
        place.stop(RUN, grace=30)


def test_without_grace_there_are_two_signals(place, submission):
    # As drivers do, which may be started where Ctrl-C is ignored.
    counts = (
        "import signal\n"
        "for number in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(number, lambda number, frame: print(number, flush=True))\n"
        "print('here', flush=True)\n"
        "while True: signal.pause()"
    )
    place.submit(submission(sys.executable, "-c", counts))
    lines = place.logs(RUN, follow=True, rank=None)
    assert next(lines) == "here"
    place.stop(RUN, grace=0)
    assert {next(lines), next(lines)} == {"15", "2"}


@pytest.mark.parametrize(
    ("told", "seen", "afterwards"),
    [
        ("preparing", "starting", "stopped"),
        ("running", "running", "stopped"),
        ("finished", "stopping", "succeeded"),
        ("failed", "stopping", "failed"),
        ("interrupted", "stopping", "stopped"),
    ],
)
def test_what_the_run_tells_counts(place, submission, tmp_path, told, seen, afterwards):
    place.submit(submission(*WAITS))
    driver = driver_of(RUN)
    run = run_of(driver, tmp_path, state=told)
    state = place.state(RUN)
    assert (state.state, state.run_directory) == (seen, str(run.path))
    driver.kill()
    driver.wait()
    assert place.state(RUN).state == afterwards


def test_a_run_that_is_asked_to_end_is_stopping(place, submission, tmp_path):
    place.submit(submission("bash", "-c", "trap : TERM; echo here; while :; do sleep 0.1; done"))
    assert next(place.logs(RUN, follow=True, rank=None)) == "here"
    run = run_of(driver_of(RUN), tmp_path, state="running")
    place.stop(RUN, grace=30)
    assert place.state(RUN)[2:4] == ("stopping", "the workers write a checkpoint")
    update_status(run.status, state="interrupted", message="stopped by SIGTERM")
    assert place.state(RUN)[2:4] == ("stopping", "its driver is ending")
    driver_of(RUN).kill()
    assert wait_until(lambda: place.state(RUN).ended, seconds=10)
    assert place.state(RUN)[2:4] == ("stopped", "stopped by SIGTERM")


def test_a_driver_that_is_killed_is_gone_though_nobody_buries_it(place, submission, tmp_path):
    place.submit(submission(*WAITS))
    driver = driver_of(RUN)
    run_of(driver, tmp_path, state="running")
    driver.kill()
    os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
    assert driver.status() == psutil.STATUS_ZOMBIE
    state = place.state(RUN)
    assert state.state == "stopped"
    assert "is gone" in state.why


def test_what_an_earlier_driver_told_is_over(place, submission, tmp_path):
    place.submit(submission(*WAITS))
    run = run_of(driver_of(RUN), tmp_path, state="running")
    assert place.state(RUN).state == "running"
    update_status(run.status, process_started=driver_of(RUN).create_time() - 60)
    assert place.state(RUN).state == "starting"


def test_who_was_not_submitted_here_is_told(place):
    assert place.state(RUN).state == "gone"
    assert place.states() == []
    for ask in (lambda: place.stop(RUN, 1), lambda: place.logs(RUN, follow=False, rank=None)):
        with pytest.raises(ValueError, match=f"{RUN}: it was not submitted on this computer"):
            ask()


def test_a_program_that_is_not_there_is_told(place, submission):
    with pytest.raises(ValueError, match="no-such-program cannot be started: No such file"):
        place.submit(submission("no-such-program"))
    assert place.states() == []


def test_a_broken_record_is_named(place):
    folder = submission_folder(RUN)
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text("{")
    with pytest.raises(ValueError, match=re.escape(f"{folder}/submission.json is no record")):
        place.state(RUN)
    (folder / "submission.json").unlink()


def test_a_broken_record_hides_no_other_run(place, submission):
    place.submit(submission(*WAITS))
    folder = submission_folder("broken-1")
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text("{")
    states = {state.run: state for state in place.states()}
    assert states[RUN].state == "starting"
    assert states["broken-1"].state == "unknown"
    assert "is no record of a submission" in states["broken-1"].why
    (folder / "submission.json").unlink()


def test_files_of_a_submission_are_for_its_owner_alone(place, submission):
    place.submit(submission(*WAITS))
    assert submission_folder(RUN).stat().st_mode & 0o777 == 0o700


def test_a_driver_knows_that_its_log_is_kept(place, submission):
    place.submit(submission("sh", "-c", "echo $TAP_DRIVER_LOG"))
    log = submission_folder(RUN) / "driver.log"
    assert list(place.logs(RUN, follow=True, rank=None)) == [str(log)]


def test_when_a_run_was_submitted_is_before_its_first_word(place, submission, tmp_path):
    place.submit(submission(*WAITS))
    run = run_of(driver_of(RUN), tmp_path, state="failed")
    state = place.state(RUN)
    assert not _is_of_earlier(read_status(run.status), state.submitted)
    update_status(run.status, process_started=0.0, updated="2020-01-01T00:00:00+00:00")
    assert _is_of_earlier(read_status(run.status), state.submitted)


def test_a_drivers_log_in_the_run_directory(tmp_path):
    run = RunDirectory.create(tmp_path, "trials", RUN)
    with pytest.raises(ValueError, match=f"{RUN} has no log in"):
        list(driver_lines(run))
    run.begin_attempt()
    run.log(1, 0).write_text("of a worker\n")
    # Of a driver in a terminal nothing was kept.
    assert list(driver_lines(run)) == ["of a worker"]
    run.driver_log(1).write_text("of the driver\n")
    assert list(driver_lines(run)) == ["of the driver"]


def test_lines_come_as_they_are_finished(tmp_path):
    path = tmp_path / "log"
    said = iter(["one\ntw", "", "o\nthree", None])

    def ended():
        text = next(said)
        with path.open("a") as log:
            log.write(text or "")
        return text is None

    lines = file_lines(path, ended, pause=0)
    assert next(lines) == "one"
    assert next(lines) == "two"
    assert next(lines) == "three"
    assert list(lines) == []
    assert list(file_lines(tmp_path / "none")) == []


def test_a_workers_log_goes_on_with_the_next_attempt(tmp_path):
    run = RunDirectory.create(tmp_path, "trials", RUN)

    def write(attempt, text):
        run.log(attempt, 0).parent.mkdir(parents=True, exist_ok=True)
        with run.log(attempt, 0).open("a") as log:
            log.write(text)

    assert run.begin_attempt() == 1
    write(1, "first\n")
    looks = iter(range(100))

    def ended():
        """The driver writes on while the log is looked at: a third look sees the next attempt."""
        look = next(looks)
        if look == 1:
            write(1, "more\n")
        if look == 3:
            write(2, "second\n")
        return look > 6

    lines = rank_lines(run, 0, ended, pause=0)
    assert list(lines) == ["first", "more", "second"]
    assert list(rank_lines(run, 0)) == ["second"]
    with pytest.raises(ValueError, match=f"{RUN} has no log of rank 3"):
        list(rank_lines(run, 3))
