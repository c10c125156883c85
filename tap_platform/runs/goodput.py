"""Where the time of a run's machines went: into steps that stand, or into something else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_STEP = re.compile(r"step-(\d+)$")
_ENDS = frozenset({"finished", "failed", "interrupted"})


@dataclass(frozen=True)
class Goodput:
    """Seconds of a run's machines by what they were spent on; together with `other`, all of them.

    A step counts as useful where the run did not go back behind it later.
    """

    total: float = 0.0
    """From the start of each driver to its end."""
    useful: float = 0.0
    """In optimizer steps that stand."""
    start: float = 0.0
    """Before the first step: nodes, processes, imports, data."""
    data_wait: float = 0.0
    """In steps that stand, waiting for data."""
    checkpoint: float = 0.0
    """In steps that stand, waiting for a checkpoint to be taken."""
    recovery: float = 0.0
    """After the first step: starting again, and steps that were made for nothing."""

    @property
    def other(self) -> float:
        """The rest: looks at held-out images, the final evaluation, ends."""
        told = self.useful + self.start + self.data_wait + self.checkpoint + self.recovery
        return max(0.0, self.total - told)

    @property
    def shares(self) -> dict[str, float]:
        """Each part by its name, `other` among them, as shares from 0 to 1; empty before a start.

        Clocks of hosts differ, so that parts may come to a little more than the whole: they are
        shares of their sum then.
        """
        parts = {
            "useful": self.useful,
            "start": self.start,
            "data_wait": self.data_wait,
            "checkpoint": self.checkpoint,
            "recovery": self.recovery,
            "other": self.other,
        }
        whole = sum(parts.values())
        return {name: value / whole for name, value in parts.items()} if whole > 0 else {}


class _Window(NamedTuple):
    """Steps that were measured together, seconds of them."""

    begin: int
    """Steps done before it."""
    end: int
    useful: float
    waited: float


@dataclass
class GoodputClock:
    """Follows a run through its events and its records of training steps, in the order of time."""

    _start: float = 0.0
    _recovery: float = 0.0
    _checkpoint: float = 0.0
    _windows: list[_Window] = field(default_factory=list)
    _starting_since: float | None = None
    """While no step is measured since a start."""
    _began: bool = False
    """Whether a step was ever measured."""
    _step: int = 0
    _mark: float = 0.0
    """When the last step was measured, or the workers began."""

    def event(self, event: Mapping[str, Any], now: float) -> None:
        """Take an event.

        Args:
            event: a line of `events.jsonl`.
            now: its time, seconds since 1970.
        """
        kind = event.get("kind")
        if kind == "started":
            self._starting_since = now
        elif kind == "training":
            self._restart(event, now)
        elif kind == "checkpoint":
            self._checkpoint += float(event.get("stall_seconds") or 0.0)
        elif kind in _ENDS:
            self._starts_until(now)

    def measured(self, step: int, now: float, seconds: float, data_wait: float) -> None:
        """Take a record of training steps.

        Args:
            step: optimizer steps done.
            now: its time, seconds since 1970.
            seconds: of one step, a mean over those since the last record.
            data_wait: the share of them that waited for data, from 0 to 1.
        """
        whole = seconds * max(0, step - self._step)
        waited = whole * min(max(data_wait, 0.0), 1.0)
        self._starts_until(max(self._starting_since or 0.0, now - whole))
        if step > self._step:
            self._windows.append(_Window(self._step, step, whole - waited, waited))
        self._step, self._mark, self._began = step, now, True

    def goodput(self, total: float, until: float) -> Goodput:
        """Where the time went.

        Args:
            total: seconds of all drivers.
            until: the time to look at, seconds since 1970: what goes on counts until then.
        """
        start, recovery = self._start, self._recovery
        if self._starting_since is not None:
            going_on = max(0.0, until - self._starting_since)
            start, recovery = (
                (start, recovery + going_on) if self._began else (start + going_on, recovery)
            )
        useful = sum(window.useful for window in self._windows)
        checkpoint = min(self._checkpoint, useful)
        return Goodput(
            total=total,
            useful=useful - checkpoint,
            start=start,
            data_wait=sum(window.waited for window in self._windows),
            checkpoint=checkpoint,
            recovery=recovery,
        )

    def _restart(self, event: Mapping[str, Any], now: float) -> None:
        """Workers begin: what was done after the checkpoint that they take was for nothing."""
        if self._starting_since is None:
            self._recovery += max(0.0, now - self._mark)
            self._starting_since = now
        found = _STEP.search(str(event.get("goes_on_from") or ""))
        self._step = int(found[1]) if found else 0
        while self._windows and self._windows[-1].end > self._step:
            self._undo(self._windows.pop())

    def _undo(self, window: _Window) -> None:
        """A window may begin before the checkpoint: that part of it stands."""
        share = max(0.0, self._step - window.begin) / (window.end - window.begin)
        self._recovery += (1 - share) * (window.useful + window.waited)
        if share:
            kept = _Window(window.begin, self._step, share * window.useful, share * window.waited)
            self._windows.append(kept)

    def _starts_until(self, now: float) -> None:
        if self._starting_since is None:
            return
        spent = max(0.0, now - self._starting_since)
        if self._began:
            self._recovery += spent
        else:
            self._start += spent
        self._starting_since = None
