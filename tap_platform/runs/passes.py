"""Passes over a run directory, made in a thread beside training: they never stop or slow it."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog

LONGEST_WAIT = 300.0


class BackgroundPasses(ABC):
    """Passes over a run directory again and again, and once more at the end.

    A pass that fails is made again, after pauses that grow. An outage is one event, `WHAT_failed`,
    however long it lasts; its end is another, `WHAT_recovered`.
    """

    def __init__(self, run: RunDirectory, what: str, interval: float, **told: str) -> None:
        """Begin nothing yet.

        Args:
            run: The run to pass over.
            what: What this is about, such as `tracking`: names the thread and the events.
            interval: Seconds between two passes.
            **told: What every event tells.
        """
        self.run = run
        self.interval = interval
        self._what = what
        self._told = told
        self._events = EventLog(run.events, attempt=run.attempt)
        self._outage = False
        self._up_to_date = False
        self._left_behind = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=what, daemon=True)

    @abstractmethod
    def _pass(self) -> object:
        """Deal with all that is new; may raise anything."""

    def _release(self) -> None:  # noqa: B027  # many passes hold nothing
        """Let go of what a pass holds for the next one; after a failure, and at the end."""

    def _abandon(self) -> None:  # noqa: B027
        """Let go of what would hold up the end of this process, while a pass goes on."""

    def start(self) -> None:
        """Follow the run in the thread."""
        self._thread.start()

    def stop(self, final_timeout: float) -> bool:
        """End the thread after a last pass.

        Args:
            final_timeout: Seconds to wait for it. A pass that needs longer is left behind.

        Returns:
            Whether all was dealt with; if not, an event `WHAT_behind` says so.
        """
        self._stopping.set()
        self._thread.join(final_timeout)
        if self._thread.is_alive():
            self._left_behind = True
            self._abandon()
        complete = self._up_to_date and not self._thread.is_alive()
        if not complete:
            self._note("behind")
        return complete

    @property
    def _is_last(self) -> bool:
        """Whether the run has ended, so that there is no later pass to leave things for."""
        return self._stopping.is_set()

    def _follow(self) -> None:
        wait = self.interval
        while not self._stopping.wait(wait):
            wait = self.interval if self._try_pass() else min(2 * wait, LONGEST_WAIT)
        if not self._left_behind:
            self._up_to_date = self._try_pass()
        with contextlib.suppress(Exception):
            self._release()

    def _try_pass(self) -> bool:
        try:
            self._pass()
        except Exception as error:
            if not self._outage:
                self._note("failed", error=str(error))
            self._outage = True
            with contextlib.suppress(Exception):
                self._release()
            return False
        if self._outage:
            self._note("recovered")
        self._outage = False
        return True

    def _note(self, how: str, **fields: object) -> None:
        with contextlib.suppress(OSError):
            self._events.record(f"{self._what}_{how}", **self._told, **fields)
