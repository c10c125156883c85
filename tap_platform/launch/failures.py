"""What a person is told of a run that failed: who, where, why, and how to go on."""

from __future__ import annotations

import shlex

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events

LOG_LINES_SHOWN = 12
ECHOES = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
"""Words of the errors that workers raise because another one is gone."""


def how_to_go_on(run: RunDirectory) -> str:
    """Where the run stands, and the command that goes on from there."""
    written = read_events(run.events, kind="checkpoint")
    stands = f"step {written[-1]['step']} is in its last checkpoint" if written else "no checkpoint"
    return f"{stands}; go on with: tap train --resume {shlex.quote(str(run.path))}"


def explain_failure(error: Exception, run: RunDirectory, attempt: int) -> str:
    """What ended training.

    Args:
        error: what Ray Train raised: a `WorkerGroupError`, a `PreemptionError`, a
            `ControllerError`, or a `RayError` where its controller is gone.
        run: the run.
        attempt: the start of it that failed.
    """
    from ray.exceptions import RayError
    from ray.train import ControllerError

    if failures := getattr(error, "worker_failures", None):
        told = _of_worker(*_first_cause(failures), run, attempt)
    elif isinstance(error, ControllerError):
        told = _of_controller(error.controller_failure, run)
    elif isinstance(error, RayError):
        told = (
            "Ray lost the controller of this run, which lives on the driver's node: the head node"
            f" or its Ray is gone ({_first_line(error)})"
        )
    else:
        told = str(error)
    return f"{told}\n{how_to_go_on(run)}"


def _first_cause(failures: dict[int, Exception]) -> tuple[int, Exception]:
    """The worker that the others failed after: a dead one, one with an error of its own, any."""

    def order(failure: tuple[int, Exception]) -> tuple[bool, bool, int]:
        rank, error = failure
        text = str(error).lower()
        return not _is_dead(error), any(word in text for word in ECHOES), rank

    return min(failures.items(), key=order)


def _is_dead(error: Exception) -> bool:
    """Whether Ray found the worker's process gone, rather than heard of an error from it."""
    return hasattr(error, "health_check_failure")


def _of_worker(rank: int, error: Exception, run: RunDirectory, attempt: int) -> str:
    log = run.log(attempt, rank)
    if not log.exists():
        return (
            f"worker {rank} failed: {error}\nit left no log at {log}: if it ran on another node,"
            " that node does not see the run directory; `storage` is a folder that all nodes share"
        )
    lines = log.read_text(errors="replace").splitlines()
    where = f" ({lines[0]})" if lines and lines[0].startswith("worker ") else ""
    ending = "\n".join(f"  | {line}" for line in lines[-LOG_LINES_SHOWN:])
    cause = getattr(error, "health_check_failure", error)
    end = "is gone" if _is_dead(error) else "failed"
    return f"worker {rank}{where} {end}: {cause}\n{ending}\nits whole log: {log}"


def _of_controller(error: Exception, run: RunDirectory) -> str:
    if "Unable to set up cluster storage" in str(error):
        return (
            f"a node of the cluster does not see the run directory {run.path}: `storage` is a"
            " folder that all nodes share, such as a mounted network file system"
        )
    return f"Ray Train could not start or watch the workers: {error}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
