"""How one attempt of a run begins and ends, whatever happens inside it."""

from __future__ import annotations

import pytest
from test_launch_prepare import make_job, write_set

from tap_platform.launch import train as launch
from tap_platform.launch.errors import RunFailedError
from tap_platform.runs.events import read_events
from tap_platform.runs.status import read_status


@pytest.fixture
def job(tmp_path):
    write_set(tmp_path / "a folder")
    job = make_job(tmp_path / "a folder")
    return job.model_copy(update={"tracking": job.tracking.replaced(tracker="none")})


@pytest.fixture
def run(job):
    return launch.create_run(job)


def ending_in(error):
    def run_workers(*_):
        raise error

    return run_workers


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1), SystemExit(15)])
def test_a_run_that_is_stopped_says_how_to_go_on(job, run, stop, monkeypatch):
    monkeypatch.setattr(launch, "run_workers", ending_in(stop))
    with pytest.raises(RunFailedError, match=r"was stopped; go on with: tap train --resume '/.*'"):
        launch.train(job, run)
    assert read_status(run.status).state == "interrupted"
    assert read_events(run.events)[-1]["kind"] == "interrupted"


def test_a_run_that_fails_tells_why(job, run, monkeypatch):
    monkeypatch.setattr(launch, "run_workers", ending_in(RuntimeError("no luck")))
    with pytest.raises(RuntimeError, match="no luck"):
        launch.train(job, run)
    assert (read_status(run.status).state, read_status(run.status).message) == ("failed", "no luck")


def test_a_run_has_one_driver(job, run, monkeypatch):
    def meanwhile(*_):
        with pytest.raises(ValueError, match=r"is being trained already, by process \d+ on "):
            launch.train(job, run)

    monkeypatch.setattr(launch, "run_workers", meanwhile)
    launch.train(job, run)
    assert run.attempt == 1
    assert read_status(run.status).state == "finished"


def test_what_is_printed_can_be_pasted_in_a_shell(job, run):
    tracked = job.model_copy(update={"tracking": job.tracking.replaced(tracker="mlflow")})
    lines = launch.where_everything_lies(tracked, run).splitlines()
    assert lines[-1].endswith(f"mlflow ui --backend-store-uri 'sqlite:///{run.storage}/mlflow.db'")
