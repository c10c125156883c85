"""Settings that changed while a run went on, step by step.

A run that goes on with another number of workers, or one of a population that took another's
values, tells so in its events. Trackers show the numbers as curves, `changed/optimizer.lr`, and all
of it as a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import all_records
from tap_platform.runs.metrics import MetricsReader, MetricsRecord
from tap_platform.runs.tracking.base import as_text

KIND = "changed"
_EXPLOITED = "exploited"


class Changed(NamedTuple):
    """What changed between two steps."""

    step: int
    """Optimizer steps done before."""
    time: str
    """UTC in ISO 8601."""
    attempt: int
    """The start of the run before it."""
    keys: Mapping[str, tuple[Any, Any]]
    """What each setting was, and what it is."""
    of: str
    """The trial whose weights were taken; empty if they stayed."""


def changes_of(run: RunDirectory) -> list[Changed]:
    """All changes of a run that are told whole, in their order.

    The event `changed` comes first, and where weights were taken `exploited` follows, with the
    step. One that nothing follows yet waits.
    """
    found: list[Changed] = []
    waiting: dict[str, Any] | None = None
    for event in all_records(run.events):
        if waiting is not None:
            found.append(_changed(waiting, event, run))
        waiting = event if event.get("kind") == KIND else None
    return found


def records_of(
    changes: Iterable[Changed], before: Iterable[Changed], started: str
) -> list[MetricsRecord]:
    """The changes of numbers as measures: what each was at first, and what it is from a step on.

    Args:
        changes: Those to tell of.
        before: Those that were told.
        started: When the run was first started.
    """
    known = {key for change in before for key in change.keys}
    records: list[MetricsRecord] = []
    for change in changes:
        first = {key: was for key, (was, _) in change.keys.items() if key not in known}
        known |= first.keys()
        records += _record(0, started, 1, first)
        now = {key: now for key, (_, now) in change.keys.items()}
        records += _record(change.step, change.time, change.attempt, now)
    return records


def changes_text(changes: Iterable[Changed]) -> str:
    """The changes in words: `step 60: optimizer.lr 0.001 to 0.0008 (weights of t0001)`."""
    return "; ".join(
        f"step {change.step}: "
        + ", ".join(f"{key} {as_text(was)} to {as_text(now)}" for key, (was, now) in items)
        + (f" (weights of {change.of})" if change.of else "")
        for change in changes
        if (items := change.keys.items())
    )


def _changed(event: Mapping[str, Any], after: Mapping[str, Any], run: RunDirectory) -> Changed:
    exploited = after.get("kind") == _EXPLOITED
    attempt = int(event.get("attempt") or 0)
    return Changed(
        step=int(after["step"]) if exploited else _newest_step(run, attempt),
        time=event["time"],
        attempt=attempt,
        keys={key: (was, now) for key, (was, now) in event["changes"].items()},
        of=str(after["trial"]) if exploited else "",
    )


def _newest_step(run: RunDirectory, attempt: int) -> int:
    """The last step that an attempt, or one before it, has measured."""
    records = MetricsReader(run.metrics).read_on()
    return max((each.step for each in records if each.attempt <= attempt), default=0)


def _record(step: int, time: str, attempt: int, values: Mapping[str, Any]) -> list[MetricsRecord]:
    numbers = {
        f"{KIND}/{key}": float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return [MetricsRecord(step, KIND, numbers, attempt, time)] if numbers else []
