"""A run's progress on the terminal, read from its metrics."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tap_platform.report.story import illness_told
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_records
from tap_platform.runs.metrics import MetricsRecord, read_metrics
from tap_platform.runs.status import update_status

LOOK_EVERY_SECONDS = 0.5
PLAIN_LINES = 10


class RunProgress:
    """Follow a run's metrics in a thread: a bar on a terminal, ten plain lines elsewhere.

    It also tells of checkpoints that were skipped or gone on from, of workers taken away and of bad
    samples, and keeps the step in the run's status.
    """

    def __init__(self, run: RunDirectory, max_steps: int, console: Console | None = None) -> None:
        self.run = run
        self.max_steps = max_steps
        self.console = console or Console()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("starting workers", total=max_steps, numbers="")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)
        self._shown = 0
        self._printed = 0
        self._size = 0
        self._events_read = run.events.stat().st_size if run.events.exists() else 0
        self._bad_samples: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._look()
        self._bar.stop()
        if self._bad_samples:
            count = f"bad samples met and left out: {len(self._bad_samples)}"
            self.console.print(f"{count}, listed in {self.run.events}", soft_wrap=True)

    def _follow(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        """Show what is new in the run's files."""
        records, self._events_read = read_records(self.run.events, self._events_read)
        for event in records:
            self._tell(event)
        self._show_newest()

    def _tell(self, event: dict[str, Any]) -> None:
        """Say what a person should know of before the end."""
        kind = event.get("kind")
        if kind == "quarantined":
            self._bad_samples.add((event["shard"], event["key"]))
        elif kind == "checkpoint_skipped":
            self.console.print(
                f"[red]checkpoint {event['checkpoint']} is skipped:[/] {escape(event['reason'])}",
                soft_wrap=True,
            )
        elif kind == "preempted":
            who = ", ".join(map(str, event["ranks"]))
            self.console.print(f"preempted at step {event['step']}: workers {who} are taken away")
        elif kind == "training" and event["goes_on_from"]:
            self.console.print(f"going on from {event['goes_on_from']}")
        elif kind == "resized":
            self.console.print(f"workers: {event['was']} before, {event['now']} now")
        elif told := illness_told(event):
            self.console.print(f"[yellow]{escape(told)}[/]", soft_wrap=True)

    def _show_newest(self) -> None:
        """Show the newest record, if the file has grown."""
        if not self.run.metrics.exists() or self.run.metrics.stat().st_size == self._size:
            return
        self._size = self.run.metrics.stat().st_size
        records = [r for r in read_metrics(self.run.metrics) if r.kind == "train"]
        if not records or records[-1].step == self._shown:
            return
        newest = records[-1]
        self._shown = newest.step
        numbers = summary(newest)
        self._bar.update(self._task, description="training", completed=newest.step, numbers=numbers)
        update_status(self.run.status, step=newest.step)
        tenth = newest.step * PLAIN_LINES // self.max_steps
        if not self.console.is_terminal and tenth > self._printed:
            self._printed = tenth
            self.console.print(f"step {newest.step}/{self.max_steps}  {numbers}")


def summary(record: MetricsRecord) -> str:
    """The few numbers that tell how training goes."""
    shown = {
        "loss": "loss",
        "iou": "second/actual_iou",
        "images/s": "speed/images_per_second",
    }
    return "  ".join(
        f"{label} {record.values[name]:.3g}"
        for label, name in shown.items()
        if name in record.values
    )
