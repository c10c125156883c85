"""A run whose steps are no longer finite goes back to its last checkpoint, in the same workers."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Callable
from pathlib import Path

from tap_platform.config.health import HealthConfig
from tap_platform.launch.errors import RunFailedError
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.training.divergence import RETURNED, DivergedError

DIVERGED = "diverged"
SHOWN = 5
"""Samples that an error message lists."""


def train_with_returns(
    health: HealthConfig,
    events: EventLog,
    newest: Callable[[], Path | None],
    train: Callable[[Path | None], None],
) -> None:
    """Train from the newest checkpoint on, and where that diverges from the newest one again.

    The workers stay what they are, so this is no failure to Ray, and takes nothing of
    `scale.max_failures`. After `health.returns` in one attempt an event `diverged` tells that there
    is no use in it, and every worker ends as if it were done: an error would make Ray try again.
    `check_not_diverged` is for the driver.

    Args:
        health: how often it may go back.
        events: this worker's event log.
        newest: finds the checkpoint to go on from, or None; every worker finds the same one.
        train: trains from it on. It leaves out the samples of the events `returned`, and has no
            checkpoint on its way any more when it raises.
    """
    done = _count(events, RETURNED)
    checkpoint = newest()
    while (diverged := _diverged(train, checkpoint)) is not None:
        _wait_for_all()
        if done >= health.returns:
            if events.rank == 0:
                events.record(DIVERGED, step=diverged.step, samples=diverged.samples)
            return
        done += 1
        checkpoint = newest()
        to = checkpoint.name if checkpoint else None
        print(f"{diverged}: going back to {to or 'the start'}, without the samples since")
        if events.rank == 0:
            events.record(RETURNED, step=diverged.step, to=to, samples=diverged.samples)
        _wait_for_all()


def check_not_diverged(run: RunDirectory, attempt: int) -> None:
    """Look whether the workers of an attempt have given up.

    Raises:
        RunFailedError: if they have; it lists samples of the last steps.
    """
    found = [e for e in read_events(run.events, DIVERGED) if e["attempt"] == attempt]
    if not found:
        return
    samples = found[-1]["samples"]
    returns = sum(e["attempt"] == attempt for e in read_events(run.events, RETURNED))
    more = f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
    raise RunFailedError(
        f"training has diverged: up to step {found[-1]['step']} steps in a row had no finite loss"
        f" or gradient, and going back {returns} times (health.returns) has not helped. The last"
        f" samples: {', '.join(samples[:SHOWN])}{more}; all of them are in {run.events} (kinds"
        " step_skipped, returned and diverged). Look at those samples; if there is nothing wrong"
        " with them, lower optimizer.lr, or set optimizer.gradient_clip, in a new run; try this one"
        f" again with: tap train --resume {shlex.quote(str(run.path))}"
    )


def _diverged(
    train: Callable[[Path | None], None], checkpoint: Path | None
) -> DivergedError | None:
    """Train; what is left of the model and its trainer is gone when it has diverged."""
    try:
        train(checkpoint)
    except DivergedError as error:
        diverged = error.with_traceback(None)
    else:
        return None
    gc.collect()
    return diverged


def _count(events: EventLog, kind: str) -> int:
    return sum(event["attempt"] == events.attempt for event in read_events(events.path, kind))


def _wait_for_all() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
