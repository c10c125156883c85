"""Signs of life of a driver: events that say no more than that it was there."""

from __future__ import annotations

import time

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog

ALIVE = "alive"
"""The kind of these events."""
EVERY_SECONDS = 60.0


class SignsOfLife:
    """Records once a minute that a driver is there: one that is killed leaves its hours behind."""

    def __init__(self, run: RunDirectory) -> None:
        """Say nothing yet: a start is a sign of its own."""
        self._run = run
        self._told = time.monotonic()

    def tell(self) -> None:
        """To be called often; a run that is not there yet is none to tell of."""
        now = time.monotonic()
        if now - self._told >= EVERY_SECONDS and self._run.events.exists():
            self._told = now
            EventLog(self._run.events, attempt=self._run.attempt).record(ALIVE)
