"""What a driver prints is in its attempt's directory too, whoever prints it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tap_platform.launch import driver_log
from tap_platform.launch.driver_log import LOG_IS_KEPT
from tap_platform.runs.directory import RunDirectory

DRIVER = """
import os, sys, time
from pathlib import Path
from tap_platform.launch.driver_log import copied_log
from tap_platform.runs.directory import RunDirectory

run = RunDirectory(Path(sys.argv[1]))
print("before all", flush=True)
with copied_log(run):
    print("before the attempt")
    attempt = run.begin_attempt()
    os.write(1, b"of a library\\n")
    print("to stderr", file=sys.stderr, flush=True)
    if sys.argv[2] == "killed":
        time.sleep(1)
        os.kill(os.getpid(), 9)
    if sys.argv[2] == "fails":
        raise ValueError("no GPU")
    print("the end")
print("behind it")
"""


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "runs", "tap", "r")


def drive(run, how, output, **environment):
    command = [sys.executable, "-c", DRIVER, str(run.path), how]
    kept = {key: text for key, text in os.environ.items() if key != LOG_IS_KEPT}
    with output.open("ab") as file:
        subprocess.run(command, stdout=file, stderr=file, env={**kept, **environment}, check=False)
    return output.read_text()


def test_what_a_driver_prints_is_in_its_attempts_directory(run, tmp_path):
    printed = drive(run, "ends", tmp_path / "log")
    told = "of a library\nto stderr\nbefore the attempt\nthe end\n"
    assert sorted(run.driver_log(1).read_text().splitlines()) == sorted(told.splitlines())
    assert printed.startswith("before all\n")
    assert printed.endswith("behind it\n")
    drive(run, "ends", tmp_path / "log")
    assert "the end" in run.driver_log(2).read_text()
    assert run.driver_log(2).read_text().count("the end") == 1
    assert run.driver_log(1).read_text().count("the end") == 1


def test_the_error_that_ends_a_run_is_told_last(run, tmp_path):
    drive(run, "fails", tmp_path / "log")
    assert run.driver_log(1).read_text().endswith("tap: no GPU\n")


def test_a_driver_that_is_killed_leaves_what_it_printed(run, tmp_path):
    drive(run, "killed", tmp_path / "log")
    assert "to stderr\n" in run.driver_log(1).read_text()


def test_a_log_that_is_kept_already_is_not_copied(run, tmp_path):
    drive(run, "ends", tmp_path / "log", **{LOG_IS_KEPT: "elsewhere"})
    assert run.attempt == 1
    assert not run.driver_log(1).exists()


def test_a_pipe_is_not_copied(run):
    command = [sys.executable, "-c", DRIVER, str(run.path), "ends"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("behind it\n")
    assert not run.driver_log(1).exists()


def test_a_storage_that_takes_no_log_stops_no_run(run, tmp_path, monkeypatch):
    monkeypatch.delenv(LOG_IS_KEPT, raising=False)
    output = tmp_path / "output"
    output.touch()
    monkeypatch.setattr(driver_log, "_OURS", output)
    monkeypatch.setattr(driver_log.stat, "S_ISREG", lambda mode: True)
    with driver_log.copied_log(run):
        (run.logs / "attempt-1" / "driver.log").mkdir(parents=True)
        output.write_text("one\n")
    assert run.driver_log(1).is_dir()
