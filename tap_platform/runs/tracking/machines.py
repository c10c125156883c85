"""What a run's machines did, beside its measures: `system/gpu_hours`, `system/workers`.

No collector runs beside training: these are what the run's own events tell at the time of a record.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Any

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_records
from tap_platform.runs.usage import Usage


class Machines:
    """Follows the events of a run, in the order of time."""

    def __init__(self, run: RunDirectory) -> None:
        """Read nothing yet."""
        self._run = run
        self._usage = Usage()
        self._offset = 0
        self._coming: deque[dict[str, Any]] = deque()

    def read_on(self) -> None:
        """Take note of events that are new."""
        start = -1
        while start != self._offset:
            start = self._offset
            events, self._offset = read_records(self._run.events, start)
            self._coming.extend(event for event in events if isinstance(event.get("time"), str))

    def at(self, time: str) -> dict[str, float]:
        """Totals over the run's life, by names such as `system/gpu_hours`.

        Args:
            time: UTC in ISO 8601, not before that of an earlier call.
        """
        while self._coming and self._coming[0]["time"] <= time:
            self._usage.take([self._coming.popleft()])
        usage, now = self._usage, datetime.fromisoformat(time).timestamp()
        cost, currency = usage.cost(now)
        return {
            "system/workers": float(usage.workers),
            "system/machine_hours": usage.driver_hours(now),
            "system/gpu_hours": usage.gpu_hours(now),
            "system/failures": float(usage.failures),
            **({"system/cost": cost} if currency else {}),
        }
