"""What of a job may change while its run goes on, and what makes it another run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tap_platform.config.job import JobConfig
from tap_platform.config.load import anchored, merge, parse_override, validate_job
from tap_platform.launch.plan import make_plan
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import write_json

SECTIONS = ("scale", "checkpoint", "health", "tracking", "mirror", "alerts")
"""Where every key may change but those of `FIXED`."""
KEYS = (
    "training.micro_batch",
    "training.max_steps",
    "training.log_every",
    "data.reader_tasks",
    "data.decode",
    "data.decode_threads",
)
FIXED = {"checkpoint.storage": "its checkpoints lie there, and it would not find them"}


class Change(NamedTuple):
    """One key of a job, by its dotted name."""

    key: str
    was: Any
    now: Any


def changed_job(
    job: JobConfig, overrides: Sequence[str], run: RunDirectory
) -> tuple[JobConfig, list[Change]]:
    """A job with other values where they keep its run the same run.

    Steps that are taken stay as they are, and every number of workers, strategy and micro-batch
    sees the same global batches. Losses go on within rounding of those of the unchanged job,
    except that each worker draws its own dropout, and that batch norm looks at one micro-batch of
    all workers at a time. After a change of `training.max_steps` the learning rate follows
    the schedule of the new length from the next step on.

    Args:
        job: what the run's config says.
        overrides: `key.path=value`.
        run: its directory.

    Returns:
        The job, and what is not as before.

    Raises:
        ValueError: if an override is malformed, the job does not validate with it, or it would be
            another run.
    """
    tree = job.model_dump(mode="json")
    for override in overrides:
        tree = merge(tree, parse_override(override))
    now = anchored(validate_job(tree, where=run.name))
    return now, changes_between(job, now, run)


def changes_between(job: JobConfig, now: JobConfig, run: RunDirectory) -> list[Change]:
    """What a run's job has become, if it is still the job of the same run.

    Args:
        job: what the run's config says.
        now: what it shall be.
        run: its directory.

    Raises:
        ValueError: if it would be another run; the message names every key that is not free.
    """
    before, after = (dict(_leaves(each.model_dump(mode="json"))) for each in (job, now))
    changes = [
        Change(key, before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    if faults := [fault for change in changes if (fault := _fault(change))]:
        raise ValueError("\n".join([f"{run.name} cannot go on so:", *faults]))
    return changes


def write_changes(job: JobConfig, changes: Sequence[Change], run: RunDirectory) -> None:
    """Let the run directory tell a changed job, and that it changed."""
    write_json(run.config, job.model_dump(mode="json"))
    write_json(run.plan, make_plan(job).model_dump(mode="json"))
    told = {change.key: [change.was, change.now] for change in changes}
    EventLog(run.events, attempt=run.attempt).record("changed", changes=told)


def _fault(change: Change) -> str | None:
    """Why a change makes another run, if it does."""
    key, was, now = change
    if key in FIXED:
        return f"{key} stays {was}: {FIXED[key]}"
    if key == "training.max_steps" and now < was:
        return f"training.max_steps {now} is below the {was} of this run: it may only grow"
    if key in KEYS or key.split(".")[0] in SECTIONS:
        return None
    free = ", ".join([f"{section}.*" for section in SECTIONS] + list(KEYS))
    return f"{key}={now} (was {was}) would make another run: start a new one; free are {free}"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree by their dotted keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
