"""How far `tap data priors` is, how fast it goes, and whether its teachers have enough to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tap_platform.launch.prior_tasks import Work

PLAIN_LINES = 10


@contextmanager
def priors_progress(console: Console, images: int, done: int) -> Iterator[Callable[[Work], None]]:
    """A bar on a terminal, ten plain lines elsewhere; what is given is told the work so far.

    Args:
        console: where to show it.
        images: images of the data set.
        done: those whose priors are there already.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    if done:
        console.print(f"going on after {done} of {images} images")
    told = done * PLAIN_LINES // max(1, images)

    def show(work: Work) -> None:
        nonlocal told
        now = done + work.images
        bar.update(task, completed=now, speed=speed(work))
        tenth = now * PLAIN_LINES // images
        if not console.is_terminal and tenth > told:
            told = tenth
            left = _clock((images - now) * work.seconds / max(1, work.images))
            console.print(f"{now}/{images} images  {left} left  {speed(work)}", soft_wrap=True)

    with bar:
        task = bar.add_task("embedding regions", total=images, completed=done, speed="")
        yield show


def speed(work: Work) -> str:
    """Throughput, and the share of time that the teachers waited."""
    seconds = max(work.seconds, 1e-9)
    return (
        f"{work.regions / seconds:,.0f} regions/s  {work.images / seconds:,.1f} images/s "
        f" teachers wait {work.wait_share:.0%}"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
