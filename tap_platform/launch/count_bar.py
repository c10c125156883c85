"""How far work is that can be counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINES = 10
"""Lines, at most, where there is no terminal to draw a bar on."""
QUIET_SECONDS = 2.0
"""What takes no longer than this is worth no line."""


class Show(Protocol):
    """Tells how far the work is."""

    def __call__(self, done: int, of: int, note: str = "") -> None:
        """Show it.

        Args:
            done: what is done.
            of: what there is to do, at least 1.
            note: what else to say, such as a speed.
        """


@contextmanager
def count_bar(what: str, console: Console | None = None) -> Iterator[Show]:
    """Show progress and the time that is left: a bar on a terminal, plain lines elsewhere.

    Args:
        what: what is counted, such as `images`.
        console: where to show it; stderr by default.
    """
    console = console or Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(what, total=None, note="")
    lines = _PlainLines(what, console)
    begun = False

    def show(done: int, of: int, note: str = "") -> None:
        nonlocal begun
        if not begun:  # work that goes on begins with much done, and that is no speed
            bar.reset(task, total=of, completed=done)
            begun = True
        bar.update(task, total=of, completed=done, note=note)
        if not console.is_terminal:
            lines.show(done, of, note)

    with bar:
        yield show


class _PlainLines:
    """A line for each tenth of the work that takes a while."""

    def __init__(self, what: str, console: Console) -> None:
        self._what = what
        self._console = console
        self._begun = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._tenth = 0

    def show(self, done: int, of: int, note: str) -> None:
        now = time.monotonic()
        tenth = done * PLAIN_LINES // of
        if self._first is None:
            self._first, self._tenth = (now, done), tenth
        if not self._tenth < tenth < PLAIN_LINES or now - self._begun < QUIET_SECONDS:
            return
        self._tenth = tenth
        since, before = self._first
        left = timedelta(seconds=round((now - since) / max(1, done - before) * (of - done)))
        told = f"{self._what}: {done:,} of {of:,}, {left} left  {note}"
        self._console.print(told.rstrip(), highlight=False, soft_wrap=True)
