"""How far work is that can be counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINES = 10
"""Lines where there is no terminal to draw a bar on."""


@contextmanager
def count_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr: a bar on a terminal, plain lines elsewhere.

    Args:
        what: what is counted.

    Yields:
        What to call with (done, of).
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tenth = 0
    with bar:
        task = bar.add_task(what, total=None)

        def show(done: int, of: int) -> None:
            nonlocal tenth
            bar.update(task, completed=done, total=of)
            if not console.is_terminal and tenth < done * PLAIN_LINES // of < PLAIN_LINES:
                tenth = done * PLAIN_LINES // of
                console.print(f"{what}: {done:,} of {of:,}")

        yield show
