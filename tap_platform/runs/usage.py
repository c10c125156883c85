"""How long a run has held machines and workers, and what went wrong, as its events tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tap_platform.runs.stop_request import ASKED_TO_END

_PAUSES = frozenset({"preempted", "returned", ASKED_TO_END})
"""What ends workers that did nothing wrong; others may follow."""
_ENDS = frozenset({"finished", "failed", "interrupted"})


class MachineSpan(NamedTuple):
    """A time that a driver lasted, and with it the machines of the run; seconds since 1970."""

    begin: float
    end: float
    price_per_hour: float | None
    """Of all machines; None where nobody has said."""
    currency: str


class WorkerSpan(NamedTuple):
    """A time that workers lasted, seconds since 1970."""

    begin: float
    end: float
    workers: int
    gpus: int | None
    """Of all of them together; None where it was not told."""


@dataclass
class Usage:
    """What events tell, in the order written; `take` adds more of them.

    A driver that was killed has told no end: its attempt ends with the last event of it.
    """

    failures: int = 0
    """Workers that were lost without notice and started again, drivers that were lost, and attempts
    that failed."""
    checkpoint_failures: int = 0
    """Checkpoints that could not be written."""
    workers: int = 0
    """As many as they were last, whether they are there still or not."""
    last: float = 0.0
    """When the last sign of life was, seconds since 1970."""
    _machines: list[MachineSpan] = field(default_factory=list)
    _shifts: list[WorkerSpan] = field(default_factory=list)
    _driver_since: float | None = None
    _workers_since: float | None = None
    _price: tuple[float | None, str] = (None, "")
    _gpus: int | None = None

    def take(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Add events that follow on those before."""
        for event in events:
            now = datetime.fromisoformat(event["time"]).timestamp()
            self._take(event, now)
            self.last = now

    def seen(self, now: float) -> None:
        """Tell of another sign of life, such as a record of the metrics, seconds since 1970."""
        self.last = max(self.last, now)

    def machine_spans(self, now: float) -> list[MachineSpan]:
        """When machines were held until a time, seconds since 1970; one span a driver."""
        if self._driver_since is None:
            return list(self._machines)
        return [*self._machines, MachineSpan(self._driver_since, now, *self._price)]

    def worker_spans(self, now: float) -> list[WorkerSpan]:
        """When there were workers until a time, seconds since 1970; one span a start of them."""
        if self._workers_since is None:
            return list(self._shifts)
        return [*self._shifts, WorkerSpan(self._workers_since, now, self.workers, self._gpus)]

    def driver_hours(self, now: float) -> float:
        """Hours that drivers, and so the machines, lasted until a time, seconds since 1970."""
        return sum(max(0.0, span.end - span.begin) for span in self.machine_spans(now)) / 3600

    def worker_hours(self, now: float) -> float:
        """Hours of all workers together until a time, seconds since 1970."""
        spans = self.worker_spans(now)
        return sum(max(0.0, span.end - span.begin) * span.workers for span in spans) / 3600

    def gpu_hours(self, now: float) -> float:
        """Hours of all GPUs together until a time, as far as GPUs were told of."""
        spans = self.worker_spans(now)
        return sum(max(0.0, span.end - span.begin) * (span.gpus or 0) for span in spans) / 3600

    def cost(self, now: float) -> tuple[float, str]:
        """The price of the machines until a time, as far as it was told, and its currency."""
        spans = [span for span in self.machine_spans(now) if span.price_per_hour is not None]
        cost = sum(max(0.0, s.end - s.begin) * (s.price_per_hour or 0.0) for s in spans) / 3600
        return cost, spans[-1].currency if spans else ""

    def _take(self, event: Mapping[str, Any], now: float) -> None:
        kind = event.get("kind")
        if kind == "started":
            self.failures += self._driver_since is not None
            self._end(self.last)
            self._driver_since = now
            self._price = _price(event), str(event.get("currency") or "USD")
        elif kind == "training":
            self._restart(int(event.get("workers") or 1), now)
            gpus = event.get("gpus")
            self._gpus = gpus if isinstance(gpus, int) and gpus >= 0 else None
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
        self._machines = self.machine_spans(now)
        self._driver_since = None

    def _end_workers(self, now: float) -> None:
        self._shifts = self.worker_spans(now)
        self._workers_since = None


def _price(event: Mapping[str, Any]) -> float | None:
    """What the machines cost an hour; None where nobody has said, or it is no price."""
    price = event.get("price_per_hour")
    return price if isinstance(price, int | float) and 0 <= price < math.inf else None
