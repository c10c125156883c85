"""What happened to a run: `events.jsonl`, one line for every start, stop, failure, quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tap_platform.runs.files import all_records, utc_now
from tap_platform.runs.patient_records import append_patiently


class EventLog:
    """Appends events; any number of processes may do so at once."""

    def __init__(self, path: Path, attempt: int = 0, rank: int | None = None) -> None:
        """Open nothing yet.

        Args:
            path: The run's `events.jsonl`.
            attempt: The start of the run that this process belongs to.
            rank: The worker's rank; None is the driver.
        """
        self.path = path
        self.attempt = attempt
        self.rank = rank

    def record(self, kind: str, **fields: Any) -> None:
        """Append one event; while the disk is full it waits in memory.

        Args:
            kind: What happened, such as `started`, `failed`, `resized`, `quarantined`.
            **fields: What JSON can say about it; other values are written as their text.
        """
        stamp = {"time": utc_now(), "kind": kind, "attempt": self.attempt, "rank": self.rank}
        append_patiently(self.path, {**stamp, **fields})


def read_events(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The events in the order written, of one kind or of all; torn lines are passed over."""
    return [event for event in all_records(path) if kind in (None, event.get("kind"))]
