"""A run's progress on the terminal, read from its metrics."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.metrics import MetricsRecord, read_metrics
from tap_platform.runs.status import update_status

LOOK_EVERY_SECONDS = 0.5
PLAIN_LINES = 10


class RunProgress:
    """Follow a run's metrics in a thread: a bar on a terminal, ten plain lines elsewhere.

    It also keeps the step in the run's status.
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

    def _follow(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
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
