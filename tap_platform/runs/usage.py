"""How long a run has held machines and workers, and what went wrong, as its events tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tap_platform.runs.stop_request import ASKED_TO_END

_PAUSES = frozenset({"preempted", "returned", ASKED_TO_END})
"""What ends workers that did nothing wrong; others may follow."""
_ENDS = frozenset({"finished", "failed", "interrupted"})


@dataclass
class Usage:
    """A sum over events, in the order written; `take` adds more of them.

    A driver that was killed has told no end: its attempt ends with the last event of it.
    """

    failures: int = 0
    """Workers that were lost without notice and started again, drivers that were lost, and attempts
    that failed."""
    checkpoint_failures: int = 0
    """Checkpoints that could not be written."""
    workers: int = 0
    """As many as they were last, whether they are there still or not."""
    _driver_seconds: float = 0.0
    _worker_seconds: float = 0.0
    _driver_since: float | None = None
    _workers_since: float | None = None
    _last: float = 0.0

    def take(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Add events that follow on those before."""
        for event in events:
            now = datetime.fromisoformat(event["time"]).timestamp()
            self._take(event, now)
            self._last = now

    def driver_hours(self, now: float) -> float:
        """Hours that drivers, and so the machines, lasted until a time, seconds since 1970."""
        return (self._driver_seconds + _since(self._driver_since, now)) / 3600

    def worker_hours(self, now: float) -> float:
        """Hours of all workers together until a time, seconds since 1970."""
        running = _since(self._workers_since, now) * self.workers
        return (self._worker_seconds + running) / 3600

    def _take(self, event: Mapping[str, Any], now: float) -> None:
        kind = event.get("kind")
        if kind == "started":
            self.failures += self._driver_since is not None
            self._end(self._last)
            self._driver_since = now
        elif kind == "training":
            self._restart(int(event.get("workers") or 1), now)
        elif kind in _PAUSES:
            self._end_workers(now)
        elif kind in _ENDS:
            self.failures += kind == "failed"
            self._end(now)
        elif kind == "checkpoint_failed":
            self.checkpoint_failures += 1

    def _restart(self, workers: int, now: float) -> None:
        """Workers that are more than before have joined others, which were ended for that."""
        self.failures += self._workers_since is not None and workers <= self.workers
        self._end_workers(now)
        self._workers_since, self.workers = now, workers

    def _end(self, now: float) -> None:
        self._end_workers(now)
        self._driver_seconds += _since(self._driver_since, now)
        self._driver_since = None

    def _end_workers(self, now: float) -> None:
        self._worker_seconds += _since(self._workers_since, now) * self.workers
        self._workers_since = None


def _since(begin: float | None, now: float) -> float:
    return 0.0 if begin is None else max(0.0, now - begin)
