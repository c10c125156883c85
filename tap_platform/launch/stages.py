"""Runs that belong to a parent run, as the stages of a pipeline do."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console

from tap_platform.config.job import JobConfig
from tap_platform.config.tracking import TrackingConfig
from tap_platform.launch.attempt import alone, tracked
from tap_platform.launch.errors import RunFailedError, RunStoppedError
from tap_platform.launch.train import create_run, resume_run, train
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.status import driver_identity, read_status, update_status

UNTRACKED = TrackingConfig(tracker="none")


def stage_run(parent: RunDirectory, name: str) -> RunDirectory:
    """Where the run of a stage lies, or will lie: beside its parent."""
    return RunDirectory(parent.path.with_name(f"{parent.name}-{name}"))


def has_finished(run: RunDirectory) -> bool:
    """Whether a run is there and has come to its end."""
    return run.status.is_file() and read_status(run.status).state == "finished"


def run_stage(job: JobConfig, parent: RunDirectory, name: str, console: Console) -> RunDirectory:
    """Bring the run of a stage to its end; one that has ended is left as it is.

    Args:
        job: what to train, wherever the parent lies; a run that exists goes on with its own.
        parent: the run that it is a stage of.
        name: the stage's; the run is `<parent>-<name>`.
        console: where to tell how it goes.

    Raises:
        ValueError: if the job or its data is refused, or another process trains the run.
        RunFailedError: if training failed, or was stopped.
    """
    run = stage_run(parent, name)
    if has_finished(run):
        console.print(f"stage {name} has finished already", highlight=False)
        return run
    with told(parent, name, console):
        if run.attempt:
            update_status(run.status, parent=parent.name)
            return resume_run(str(run.path), console=console)
        if run.path.exists():  # It was killed while it was made, and holds nothing yet.
            shutil.rmtree(run.path)
        beside = {"storage": str(parent.storage), "project": parent.project}
        job = job.model_copy(update=beside)
        run = create_run(job, run.name, console)
        update_status(run.status, parent=parent.name)
        return train(job, run, console)


@contextmanager
def told(parent: RunDirectory, name: str, console: Console) -> Iterator[None]:
    """Keep the parent's status and events true to a stage."""
    console.print(f"stage [bold]{name}[/]", highlight=False)
    events = EventLog(parent.events, attempt=parent.attempt)
    update_status(parent.status, message=f"stage {name}")
    events.record("stage_started", stage=name)
    started = time.monotonic()
    try:
        yield
    except (KeyboardInterrupt, SystemExit, RunStoppedError):
        raise
    except BaseException as error:
        events.record("stage_failed", stage=name, reason=str(error)[:2000])
        raise
    events.record("stage_finished", stage=name, seconds=round(time.monotonic() - started, 1))


@contextmanager
def recorded(
    parent: RunDirectory,
    total: int,
    *,
    verb: str = "run",
    tracking: TrackingConfig = UNTRACKED,
    beside: AbstractContextManager[None] = nullcontext(),  # noqa: B008, holds no state
) -> Iterator[None]:
    """Drive a run of runs: alone, followed by a tracker, its status and events kept true.

    Args:
        parent: the run that the others belong to.
        total: how many stages it has, or runs.
        verb: what of `tap` goes on with it by `--resume`.
        tracking: where the parent itself is shown.
        beside: entered once no other process can drive it, left when its end has been told.

    Raises:
        ValueError: if another process drives it.
        RunFailedError: if the block raised one, or was stopped; it tells how to go on.
    """
    with alone(parent), tracked(parent, tracking, Console()), beside:
        attempt = parent.begin_attempt()
        events = EventLog(parent.events, attempt=attempt)
        how = f"go on with: tap {verb} --resume {shlex.quote(str(parent.path))}"
        running = {"state": "running", "attempt": attempt, "max_steps": total, "message": ""}
        update_status(parent.status, **running, **driver_identity())
        events.record("started")
        try:
            yield
        except (KeyboardInterrupt, SystemExit, RunStoppedError):
            update_status(parent.status, state="interrupted", message="stopped by a signal")
            events.record("interrupted")
            raise RunStoppedError(f"{parent.name} was stopped; {how}") from None
        except BaseException as error:
            update_status(parent.status, state="failed", message=str(error)[:2000])
            events.record("failed", reason=str(error)[:2000])
            if isinstance(error, RunFailedError):
                raise RunFailedError(f"{error}\n{parent.name} as a whole: {how}") from None
            raise
        # A sweep counts its trials by itself: a budget may end it before the last one.
        done = {} if verb == "sweep" else {"step": total}
        update_status(parent.status, state="finished", message="", **done)
        events.record("finished")
