"""A run's progress on the terminal, read from its metrics."""

from __future__ import annotations

import logging
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
from tap_platform.runs.metrics import MetricsReader, MetricsRecord, joined
from tap_platform.runs.status import update_status

_LOG = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.5
PLAIN_LINES = 10


class RunProgress:
    """Follow a run's metrics in a thread: a bar on a terminal, ten plain lines elsewhere.

    It also tells of checkpoints that were skipped or gone on from, of workers taken away and of bad
    samples, and keeps the step in the run's status. Where the run directory cannot be read or
    written, as on a disk that is full, it says so once and goes on.
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
        self._metrics = MetricsReader(run.metrics)
        self._newest: MetricsRecord | None = None
        self._fails = False
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
        """Show what is new in the run's files, as far as the disk allows."""
        try:
            self._show_events()
            self._show_newest()
        except OSError as error:
            if not self._fails:
                _LOG.warning("the progress of %s is not kept: %s", self.run.path, error)
            self._fails = True
        else:
            self._fails = False

    def _show_events(self) -> None:
        """Tell of the events since the last look."""
        records, self._events_read = read_records(self.run.events, self._events_read)
        for event in records:
            self._tell(event)

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
        """Show the record of the furthest step, if there is a new one."""
        for record in self._metrics.read_on():
            if record.kind == "train":
                self._newest = _furthest(self._newest, record)
        newest = self._newest
        if newest is None or newest.step == self._shown:
            return
        self._shown = newest.step
        numbers = summary(newest)
        self._bar.update(self._task, description="training", completed=newest.step, numbers=numbers)
        tenth = newest.step * PLAIN_LINES // self.max_steps
        if not self.console.is_terminal and tenth > self._printed:
            self._printed = tenth
            self.console.print(f"step {newest.step}/{self.max_steps}  {numbers}")
        update_status(self.run.status, step=newest.step)


def _furthest(newest: MetricsRecord | None, record: MetricsRecord) -> MetricsRecord:
    """The record of the later step; of one step, what both tell."""
    if newest is None or record.step > newest.step:
        return record
    return joined(newest, record) if record.step == newest.step else newest


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
