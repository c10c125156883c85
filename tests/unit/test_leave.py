"""What a pod does before it is ended, with real processes in the place of Ray's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from uuid import uuid4

import psutil
import pytest

from tap_platform.places import leave as leaving
from tap_platform.places.leave import driver_here, leave, main, training_workers
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import RunStatus, read_status, update_status, write_status
from tap_platform.runs.stop_request import RESIZE, StopRequest

DRIVER = """
import signal, sys
from pathlib import Path
from tap_platform.runs.status import driver_identity, update_status
status = Path(sys.argv[1])

def stop(number, frame):
    print("asked", flush=True)
    update_status(status, state="interrupted", message="asked")
    sys.exit(1)

signal.signal(signal.SIGTERM, stop)
update_status(status, state="running", **driver_identity())
print("ready", flush=True)
while True:
    signal.pause()
"""
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('ready'); signal.pause()"
MEEK = "print('ready'); import signal; signal.pause()"


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, "tap", "one")


@pytest.fixture(autouse=True)
def log(tmp_path, monkeypatch):
    """The log of the pod. Workers of other people's Rays on this computer are not this pod's."""
    path = tmp_path / "pod.log"
    path.touch()
    monkeypatch.setattr(leaving, "LOG_OF_THE_POD", path)
    monkeypatch.setattr(leaving, "_WORKER_TITLE", f"ray::Test{uuid4().hex}")
    monkeypatch.setattr(leaving, "STOP_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(leaving, "LOOK_EVERY_SECONDS", 0.01)
    return path


@pytest.fixture
def start():
    """Starts a process that says when it is ready, and outlives no test."""
    started = []

    def begin(code, *arguments, title=sys.executable):
        command = [title, "-uc", code, *map(str, arguments)]
        process = subprocess.Popen(
            command, executable=sys.executable, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_the_driver_of_the_run_is_stopped_and_waited_for(run, start, log, capsys):
    driver = start(DRIVER, run.status)
    assert driver_here(run) == psutil.Process(driver.pid)
    leave(run, 20)
    assert not psutil.pid_exists(driver.pid)
    assert read_status(run.status).state == "interrupted"
    assert f"one: SIGTERM to its driver, process {driver.pid}, which has 20 s" in log.read_text()
    assert log.read_text().endswith("all have ended\n")
    assert "SIGTERM to its driver" in capsys.readouterr().err


def test_a_driver_that_is_being_stopped_is_waited_for_and_not_asked_again(run, start, log):
    """KubeRay stops a job before it ends its pods."""
    driver = start(DRIVER, run.status)
    StopRequest(run).ask("SIGTERM")
    threading.Timer(0.3, driver.kill).start()
    leave(run, 20)
    assert "asked" not in driver.stdout.read()
    said = log.read_text()
    assert "one is being stopped, by SIGTERM: its driver has 20 s" in said
    assert said.endswith("all have ended\n")


def test_the_driver_of_a_run_that_changes_its_size_is_stopped(run, start, log):
    start(DRIVER, run.status)
    StopRequest(run).ask(RESIZE)
    leave(run, 20)
    assert "SIGTERM to its driver" in log.read_text()
    assert read_status(run.status).state == "interrupted"


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted"])
def test_a_driver_that_brings_its_last_records_is_waited_for(state, run, start, log):
    driver = start(DRIVER, run.status)
    update_status(run.status, state=state)
    threading.Timer(0.3, driver.kill).start()
    leave(run, 20)
    assert "asked" not in driver.stdout.read()
    assert f"one is {state}, and its driver, process {driver.pid}, has 20 s" in log.read_text()
    assert log.read_text().endswith("all have ended\n")


@pytest.mark.parametrize("state", ["preparing", "finished", "failed", "interrupted"])
def test_a_run_that_does_not_train_is_left_alone(state, run, log):
    update_status(run.status, state=state, process_started=time.time() - 3600)
    leave(run, 20)
    assert "there is nothing to wait for" in log.read_text()


def test_a_run_that_another_host_drives_is_not_ours_to_stop(run, log):
    """It may go on in the cluster that came after ours."""
    write_status(run.status, RunStatus(state="running", host="another", pid=os.getpid()))
    assert driver_here(run) is None
    leave(run, 20)
    assert "there is nothing to wait for" in log.read_text()


def test_a_driver_that_is_dead_already_is_not_waited_for(run, start):
    driver = start(DRIVER, run.status)
    driver.kill()
    driver.wait()
    assert driver_here(run) is None


def test_workers_are_known_by_their_title(start):
    title = f"{leaving._WORKER_TITLE}.train"
    worker = start(MEEK, title=title)
    start(MEEK, "ray::RayTrainWorker", leaving._WORKER_TITLE)
    assert training_workers() == [psutil.Process(worker.pid)]


def test_workers_of_a_ray_that_cannot_be_told_are_told_themselves(run, start, log):
    StopRequest(run).clear()
    worker = start(MEEK, title=leaving._WORKER_TITLE)
    leave(run, 20)
    assert not psutil.pid_exists(worker.pid)
    said = log.read_text()
    assert f"Ray is not told (process {worker.pid} has no raylet): SIGTERM to 1 workers" in said
    assert said.endswith("all have ended\n")


def test_workers_of_a_run_that_is_being_stopped_end_by_themselves(run, start, log):
    worker = start(MEEK, title=leaving._WORKER_TITLE)
    StopRequest(run).ask("SIGTERM")
    threading.Timer(0.3, worker.terminate).start()
    leave(run, 20)
    assert "one is being stopped, by SIGTERM: its workers end by themselves" in log.read_text()
    assert "Ray is" not in log.read_text()


def test_a_resize_is_no_stop_of_the_run(run, start, log):
    worker = start(MEEK, title=leaving._WORKER_TITLE)
    StopRequest(run).ask(RESIZE)
    leave(run, 20)
    assert f"Ray is not told (process {worker.pid} has no raylet)" in log.read_text()


def test_the_time_is_kept(run, start, log):
    start(STUBBORN, title=leaving._WORKER_TITLE)
    StopRequest(run).ask("SIGTERM")
    leave(run, 0.1)
    assert log.read_text().endswith("the time is out, and 1 of 1 processes go on\n")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "there is nothing to wait for"),
        ({"TAP_RUN_DIRECTORY": "/nowhere/tap/one"}, "there is nothing to wait for"),
        ({"TAP_PRE_STOP_SECONDS": "soon"}, "ValueError: could not convert string to float: 'soon'"),
    ],
)
def test_the_hook_never_fails(variables, said, log, monkeypatch):
    for name in ("TAP_RUN_DIRECTORY", "TAP_PRE_STOP_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    main()
    assert said in log.read_text()


def test_a_broken_status_does_not_fail_the_hook(run, log, monkeypatch):
    run.status.write_text("{")
    monkeypatch.setenv("TAP_RUN_DIRECTORY", str(run.path))
    main()
    assert "holds no status of a run" in log.read_text()


def test_the_hook_is_light():
    code = "import sys, tap_platform.places.leave; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "ray", "lightning", "kubernetes", "fsspec", "rich"} & set(loaded)
