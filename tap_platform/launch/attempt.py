"""What holds around one attempt of a run: it is alone, recorded, tracked and mirrored."""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from tap_platform.config.job import JobConfig
from tap_platform.config.mirror import MirrorConfig
from tap_platform.config.tracking import TrackingConfig
from tap_platform.launch.errors import RunStoppedError
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import locked
from tap_platform.runs.mirror import Mirror
from tap_platform.runs.prices import price_told
from tap_platform.runs.status import RunStatus, driver_identity, read_status, update_status
from tap_platform.runs.tracking import build_follower

DRIVER_LOCK = ".driver.lock"
LOOK_EVERY_SECONDS = 1.0


@contextmanager
def alone(run: RunDirectory, patience: float = 0.0) -> Iterator[None]:
    """Hold the run for one driver: two would write each other's checkpoints and metrics.

    What holds it is a lock on a file, which the kernel gives back as the driver ends, however it
    does. When a whole host is lost, the server of a network file system does so, once it has not
    heard of that host for a while: NFS 4 waits for 90 seconds.

    Args:
        run: the run.
        patience: seconds to wait for a driver on another host; one on this host is there for sure.

    Raises:
        ValueError: if another driver has it.
    """
    with ExitStack() as held:
        deadline = time.monotonic() + patience
        while True:
            try:
                held.enter_context(locked(run.path / DRIVER_LOCK, wait=False))
                break
            except BlockingIOError:
                status = read_status(run.status)
                if status.host == socket.gethostname() or time.monotonic() >= deadline:
                    raise ValueError(_held_by(status, run)) from None
                time.sleep(LOOK_EVERY_SECONDS)
        yield


def _held_by(status: RunStatus, run: RunDirectory) -> str:
    told = (
        f"{run.name} is being trained already, by process {status.pid} on {status.host}: wait for"
        " its end, or stop it first"
    )
    if status.host == socket.gethostname():
        return told
    return f"{told}; if that host is gone for good, delete {run.path / DRIVER_LOCK}"


@contextmanager
def recorded(run: RunDirectory, job: JobConfig, attempt: int) -> Iterator[None]:
    """Keep status and events true to how the block begins and ends."""
    events = EventLog(run.events, attempt=attempt)
    update_status(
        run.status,
        state="running",
        attempt=attempt,
        max_steps=job.training.max_steps,
        world_size=job.scale.most_workers,
        message="",
        **driver_identity(),
    )
    events.record("started", workers=job.scale.workers, strategy=job.scale.strategy, **price_told())
    try:
        yield
    except RunStoppedError as stop:
        update_status(run.status, state="interrupted", message=str(stop))
        events.record("interrupted", reason=str(stop))
        raise
    except (KeyboardInterrupt, SystemExit):  # Ray answers Ctrl-C and SIGTERM with an exit
        update_status(run.status, state="interrupted", message="stopped by a signal")
        events.record("interrupted")
        raise RunStoppedError(
            f"{run.name} was stopped; go on with: tap train --resume {shlex.quote(str(run.path))}"
        ) from None
    except BaseException as error:
        update_status(run.status, state="failed", message=str(error)[:2000])
        events.record("failed", reason=str(error)[:2000])
        raise
    update_status(run.status, state="finished", step=job.training.max_steps)
    events.record("finished")


@contextmanager
def mirrored(run: RunDirectory, config: MirrorConfig, console: Console) -> Iterator[None]:
    """Let a mirror follow the run; its last look comes after everything else."""
    if config.url is None:
        yield
        return
    mirror = Mirror(run, config)
    mirror.start()
    try:
        yield
    finally:
        if not mirror.stop(config.final_timeout):
            console.print(
                f"{mirror.place} lacks the last files of this run (why: {run.events})",
                soft_wrap=True,
            )


@contextmanager
def tracked(run: RunDirectory, tracking: TrackingConfig, console: Console) -> Iterator[None]:
    """Let a tracker follow the run; its last look comes after the run's end is recorded."""
    follower = build_follower(run, tracking)
    if follower is None:
        yield
        return
    follower.start()
    try:
        yield
    finally:
        if not follower.stop(tracking.final_timeout):
            console.print(
                f"{tracking.tracker} lacks the last records of this run (why: {run.events});"
                f" send them with: tap runs sync {shlex.quote(str(run.path))}",
                soft_wrap=True,
            )
