"""A run by its name: begun where it is new, gone on with where it exists."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tap_platform.config.job import JobConfig
from tap_platform.config.load import load_job
from tap_platform.launch.changed_job import changes_between
from tap_platform.launch.driver_log import copied_log
from tap_platform.launch.train import create_run, go_on, job_of, train
from tap_platform.runs.directory import RunDirectory, check_storage, local_path
from tap_platform.runs.files import locked
from tap_platform.runs.status import read_status

LOST_HOST_SECONDS = 180.0
"""How long the lock of a driver on another host is waited for. The server of a network file system
gives back the locks of a host that is gone after 90 seconds or so."""


def train_named(
    spec: Path, name: str, overrides: Sequence[str] = (), console: Console | None = None
) -> RunDirectory:
    """Train the job of a file as the run of that name, from wherever that run stands.

    A cluster may call this as often as it likes: a new one goes on where a lost one was.

    Args:
        spec: the job file. For a run that exists, it may differ from the run's config as far as
            `changed_job` lets it.
        name: the run's name.
        overrides: `key.path=value`, laid over the file.
        console: where to tell how it goes.

    Raises:
        ValueError: if the job or its data is refused, the run of that name trains another job, or
            another process trains it.
        RunFailedError: if training failed, or was stopped.
    """
    console = console or Console()
    job = load_job(spec, overrides)
    run = RunDirectory(local_path(job.storage) / job.project / name)
    with copied_log(run):
        return _trained(job, run, console)


def _trained(job: JobConfig, run: RunDirectory, console: Console) -> RunDirectory:
    if _made(job, run, console):
        return train(job, run, console)
    changes = changes_between(job_of(run), job, run)
    status = read_status(run.status)
    if status.state == "finished" and job.training.max_steps <= status.step:
        console.print(f"{run.name} is finished, at step {status.step}: there is nothing to do")
        return run
    return go_on(job, changes, run, console, patience=LOST_HOST_SECONDS)


def _made(job: JobConfig, run: RunDirectory, console: Console) -> bool:
    """Make the run's directory, unless it is there; of two drivers, one does.

    Raises:
        ValueError: if the job is refused, or something else has that name.
    """
    check_storage(job.storage)
    run.path.parent.mkdir(parents=True, exist_ok=True)
    with locked(run.path.with_name(f".{run.name}.lock")):
        if run.config.is_file():
            return False
        if run.path.exists():
            _remove_unfinished(run)
        create_run(job, run.name, console)
    return True


def _remove_unfinished(run: RunDirectory) -> None:
    """Remove what a driver left that was killed while it made the run: it has trained nothing."""
    is_ours = run.status.is_file() or not any(path.is_file() for path in run.path.rglob("*"))
    if run.pipeline.exists() or run.attempt or not is_ours:
        raise ValueError(f"{run.path} is there, and no run of one job: choose another name")
    shutil.rmtree(run.path)
