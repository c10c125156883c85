"""From what happens to a run to alerts: told the same again, it says the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from tap_platform.config.alerts import AlertKind
from tap_platform.runs.stop_request import ASKED_TO_END, RESIZE

Said = tuple[AlertKind, str]
"""Kind and text."""
Told = tuple[AlertKind, str, float]
"""Kind, text, and when, seconds since 1970."""
_LONGEST_REASON = 600


class Used(NamedTuple):
    """How much of a budget is gone."""

    value: float
    limit: float
    unit: str
    """Of both, such as `USD`; empty where the budget's name says it."""


class Memory(BaseModel):
    """What must be known of a run's past; kept in its directory."""

    training: bool = False
    """Whether there are workers."""
    workers: int = 0
    trouble: str = ""
    """Why there are none, or will be others, if that is trouble."""
    begun: bool = False
    """Whether a driver has started and told no end."""
    hung: list[int] = Field(default_factory=list)
    """Attempt and step of the last hang: every worker tells of it."""
    stalled: bool = False
    """Whether a stall was told that lasts."""
    step: int = -1
    moved: float = 0.0
    """When something moved last, seconds since 1970."""
    limits: list[str] = Field(default_factory=list)
    """Budgets that were told of, such as `cost 0.8`."""


class Watch:
    """Follows one run, or one sweep."""

    def __init__(self, memory: Memory, *, is_sweep: bool = False) -> None:
        """Go on with what is remembered."""
        self.memory = memory
        self._is_sweep = is_sweep

    def event(self, event: Mapping[str, Any]) -> list[Told]:
        """What one event is worth."""
        now = datetime.fromisoformat(str(event["time"])).timestamp()
        self.memory.moved = max(self.memory.moved, now)
        return [(kind, text, now) for kind, text in self._of(event)]

    def progress(
        self, step: int, max_steps: int | None, now: float, patience: float | None
    ) -> list[Told]:
        """Look whether anything moves.

        Args:
            step: steps done.
            max_steps: steps to do; after the last one, evaluations may take their time.
            now: seconds since 1970.
            patience: seconds without a step that are a stall; None: for ever.
        """
        memory = self.memory
        if step != memory.step:
            memory.step, memory.moved, memory.stalled = step, max(now, memory.moved), False
        waits = now - memory.moved
        done = max_steps is not None and step >= max_steps
        if patience is None or not memory.begun or done or memory.stalled or waits < patience:
            return []
        memory.stalled = True
        how_long = f"for {waits / 60:.0f} minutes"
        after = f"since step {step:,}" if memory.training else "and its workers have not begun"
        return [("stall", f"Nothing has moved {how_long}, {after}.", now)]

    def spending(self, used: Mapping[str, Used], share: float, now: float) -> list[Told]:
        """Look at budgets: each is told of at a share of it, and once more at the whole.

        Args:
            used: each budget by its name.
            share: at which to tell first, from 0 to 1.
            now: seconds since 1970.
        """
        found: list[Told] = []
        for name, (value, limit, unit) in used.items():
            passed = {f"{name} {part:g}" for part in (share, 1.0) if value >= part * limit}
            new = passed.difference(self.memory.limits)
            self.memory.limits += sorted(new)
            if new:
                words = f"{value:,.2f} of {limit:,.2f} {unit or name} are used"
                text = f"{words}, {value / limit:.0%} of the budget ({name})."
                found.append(("budget", text, now))
        return found

    def _of(self, event: Mapping[str, Any]) -> Iterator[Said]:
        """What an event of a kind says; most kinds say nothing."""
        kind = event.get("kind")
        of_kind: dict[Any, Callable[[Mapping[str, Any]], Iterable[Said]]] = {
            "started": self._started,
            "training": self._training,
            "preempted": self._preempted,
            ASKED_TO_END: self._asked_to_end,
            "hang": self._hang,
            "returned": self._returned,
            "diverged": self._diverged,
            "failed": self._failed,
            "interrupted": self._interrupted,
            "finished": self._finished,
        }
        if kind in of_kind:
            yield from of_kind[kind](event)

    def _started(self, event: Mapping[str, Any]) -> Iterator[Said]:
        memory = self.memory
        if memory.begun:
            memory.trouble = "its driver was lost"
        memory.begun, memory.training, memory.stalled = True, False, False
        if self._is_sweep and memory.trouble:
            yield "recovery", f"The sweep goes on: {memory.trouble}."
            memory.trouble = ""

    def _training(self, event: Mapping[str, Any]) -> Iterator[Said]:
        memory, workers = self.memory, int(event.get("workers") or 1)
        lost = memory.training and workers <= memory.workers
        trouble = memory.trouble or ("workers were lost" if lost else "")
        if trouble:
            where = event.get("goes_on_from") or "the start"
            yield "recovery", f"It goes on from {where} on {workers} workers: {trouble}."
        memory.training, memory.workers = True, workers
        memory.trouble, memory.stalled = "", False

    def _hang(self, event: Mapping[str, Any]) -> Iterator[Said]:
        """The first worker that tells; the others tell of the same hang."""
        which = [int(event.get("attempt") or 0), int(event.get("step") or 0)]
        self.memory.trouble = "a worker hung"
        if which == self.memory.hung:
            return
        self.memory.hung = which
        yield (
            "stall",
            f"Worker {event.get('rank')} hangs at step {event.get('step')},"
            f" {event.get('phase')}; its stack is in the events.",
        )

    def _preempted(self, event: Mapping[str, Any]) -> Iterable[Said]:
        self.memory.training, self.memory.trouble = False, "machines were taken back"
        return ()

    def _asked_to_end(self, event: Mapping[str, Any]) -> Iterable[Said]:
        self.memory.training = False
        if event.get("why") == RESIZE:
            self.memory.trouble = ""
        return ()

    def _returned(self, event: Mapping[str, Any]) -> Iterator[Said]:
        self.memory.training, self.memory.trouble = False, ""
        where, left_out = event.get("to") or "the start", len(event.get("samples") or ())
        yield (
            "divergence",
            f"Losses or gradients were not finite up to step {event.get('step')}: it goes back to"
            f" {where}, without {left_out} samples.",
        )

    def _diverged(self, event: Mapping[str, Any]) -> Iterator[Said]:
        text = f"It gave up at step {event.get('step')}: going back had not helped."
        yield "divergence", text

    def _failed(self, event: Mapping[str, Any]) -> Iterator[Said]:
        self._ended("an attempt had failed")
        yield "failure", _in_short(event.get("reason") or "It does not say why.")

    def _interrupted(self, event: Mapping[str, Any]) -> Iterable[Said]:
        self._ended("")
        return ()

    def _finished(self, event: Mapping[str, Any]) -> Iterator[Said]:
        self._ended("")
        if self._is_sweep:
            yield "sweep_done", _in_short(event.get("reason") or "All of it is done.")

    def _ended(self, trouble: str) -> None:
        self.memory.begun, self.memory.training, self.memory.trouble = False, False, trouble


def _in_short(reason: Any) -> str:
    text = str(reason).strip()
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
