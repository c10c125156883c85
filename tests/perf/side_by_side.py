"""Ways to do one thing, measured in turn: a change of the machine's load meets all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

K = TypeVar("K")
T = TypeVar("T")


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """A bar that is gone when the block ends."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        yield bar


def take_turns(
    ways: Mapping[K, Callable[[], T]], rounds: int, bar: Progress, title: str
) -> dict[K, list[T]]:
    """Call every way once a round.

    Args:
        ways: what to call, by name.
        rounds: how often.
        bar: where to show how far it is.
        title: what the bar says.

    Returns:
        What each way returned, round by round.
    """
    results: dict[K, list[T]] = {name: [] for name in ways}
    task = bar.add_task(title, total=rounds * len(ways))
    for number in range(rounds):
        for name, way in ways.items():
            bar.update(task, description=f"{title} {number + 1} of {rounds}: {name}")
            results[name].append(way())
            bar.advance(task)
    bar.remove_task(task)
    return results
