"""What a follower reads: a directory, as records, settings, labels and files for a tracker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_json, read_records
from tap_platform.runs.metrics import MetricsRecord, parse_metrics
from tap_platform.runs.status import RunStatus, read_status
from tap_platform.runs.tables import FOLDER as TABLES
from tap_platform.runs.tables import read_table
from tap_platform.runs.tracking.base import Picture, Tracker
from tap_platform.runs.tracking.changes import Changed, changes_of, changes_text, records_of
from tap_platform.runs.tracking.cursor import Cursor
from tap_platform.runs.tracking.description import description_of
from tap_platform.runs.tracking.labels import data_of, labels_of
from tap_platform.runs.tracking.machines import Machines
from tap_platform.runs.tracking.settings import settings_of, settings_text
from tap_platform.runs.tracking.shown import Shown, shown_run

_STEP_IN_NAME = re.compile(r"^(.*?)-?\bstep-(\d+)$")
CLOCK = "time/seconds"
"""The measure that tells when a step was, in seconds since the run was first started."""


class Source(Protocol):
    """A directory that a follower shows."""

    run: RunDirectory
    """The directory; of a sweep too, which has status and events as a run has."""

    def shown(self) -> Shown:
        """Who it is."""

    def status(self) -> RunStatus:
        """What it does."""

    def records(self, offset: int) -> tuple[list[MetricsRecord], int]:
        """Measures from an offset on, and the offset after them: the same if there are none."""

    def completed(self, records: Sequence[MetricsRecord], cursor: Cursor) -> list[MetricsRecord]:
        """The records that are sent, with what else is known of their steps."""

    def send_changes(self, tracker: Tracker, cursor: Cursor) -> int:
        """Send what changed since the cursor's last change, and move it; how many there were."""

    def changes_before(self, step: int) -> int:
        """How many changes, from the first on, are of earlier steps."""

    def files(self, status: RunStatus) -> Iterator[Path]:
        """What a tracker keeps, in the order to be sent."""

    def send_file(self, path: Path, tracker: Tracker, first_step: int) -> None:
        """Send a file, and what it tells; steps before the first are known."""

    def is_sent_once(self, path: Path) -> bool:
        """Whether a newer version of a file is not sent: of a step, trackers keep the first."""


class RunSource:
    """The directory of a run."""

    def __init__(self, run: RunDirectory, config: TrackingConfig) -> None:
        self.run = run
        self._config = config
        self._machines = Machines(run)
        self._started = 0.0
        self._known_changes: tuple[int, list[Changed]] = (0, [])

    def shown(self) -> Shown:
        """The run, below its parent or its sweep."""
        shown = shown_run(self.run)
        self._started = _seconds(shown.started)
        self._machines = Machines(self.run)
        return shown

    def status(self) -> RunStatus:
        """Of the run."""
        return read_status(self.run.status)

    def records(self, offset: int) -> tuple[list[MetricsRecord], int]:
        """Of `metrics.jsonl`, whose bytes are the offset."""
        lines, end = read_records(self.run.metrics, offset)
        return parse_metrics(lines), end

    def completed(self, records: Sequence[MetricsRecord], cursor: Cursor) -> list[MetricsRecord]:
        """With the clock at each step, and the machines' totals at those of training."""
        self._machines.read_on()
        return [self._completed(record, cursor) for record in records]

    def _completed(self, record: MetricsRecord, cursor: Cursor) -> MetricsRecord:
        more: dict[str, float] = {}
        if cursor.is_first_of_step(record.step):
            more[CLOCK] = max(0.0, round(_seconds(record.time) - self._started, 3))
            if record.kind == "train":
                more |= self._machines.at(record.time)
        return replace(record, values={**record.values, **more})

    def send_changes(self, tracker: Tracker, cursor: Cursor) -> int:
        """Settings that changed, as curves and as a label."""
        changes = self._changes()
        before, new = changes[: cursor.changes], changes[cursor.changes :]
        if not new:
            return 0
        if records := records_of(new, before, read_status(self.run.status).started):
            tracker.log_metrics(records)
        tracker.set_tags({"changes": changes_text(changes)})
        cursor.changes = len(changes)
        return len(new)

    def changes_before(self, step: int) -> int:
        """Up to the first one of that step or a later one."""
        steps = [change.step for change in self._changes()]
        return next((number for number, at in enumerate(steps) if at >= step), len(steps))

    def _changes(self) -> list[Changed]:
        """Read anew only where something has happened since."""
        size = self.run.events.stat().st_size if self.run.events.exists() else 0
        if size != self._known_changes[0]:
            self._known_changes = size, changes_of(self.run)
        return self._known_changes[1]

    def files(self, status: RunStatus) -> Iterator[Path]:
        """Config, plan, provenance, pictures, tables, report; at its end what happened."""
        run = self.run
        single = [run.config, run.pipeline, run.plan, run.provenance]
        if status.ended:
            single.append(run.events)
        yield from (path for path in single if path.exists())
        for folder in (run.pictures, run.path / TABLES, run.report):
            yield from files_below(folder)

    def is_sent_once(self, path: Path) -> bool:
        """Pictures and tables of a step."""
        return self._is_of_a_step(path) is not None

    def send_file(self, path: Path, tracker: Tracker, first_step: int) -> None:
        """Send a file as what it is."""
        if found := self._is_of_a_step(path):
            name, step = found[1] or path.parent.name.removesuffix("s"), int(found[2])
            if step < first_step:
                return
            if path.is_relative_to(self.run.pictures):
                tracker.log_picture(Picture(path, name, step))
            else:
                tracker.log_table(name, step, read_table(path))
            return
        if path == self.run.config:
            self._send_settings(path, tracker)
        elif path == self.run.provenance:
            made_of = read_json(path)
            tracker.set_tags(labels_of(self.run, made_of, self._config.tags))
            tracker.log_data(data_of(made_of))
        tracker.log_file(path, path.relative_to(self.run.path).as_posix())

    def _send_settings(self, path: Path, tracker: Tracker) -> None:
        tree = read_json(path)
        settings = settings_of(tree)
        tracker.log_params({each.key: each.value for each in settings})
        tracker.log_text(settings_text(settings), "settings.md")
        made_of = read_json(self.run.provenance) if self.run.provenance.is_file() else {}
        labels = {**labels_of(self.run, made_of, self._config.tags), **self._config.tags}
        tracker.describe(description_of(settings, labels))

    def _is_of_a_step(self, path: Path) -> re.Match[str] | None:
        folders = (self.run.pictures, self.run.path / TABLES)
        is_there = any(path.is_relative_to(folder) for folder in folders)
        return _STEP_IN_NAME.match(path.stem) if is_there else None


def files_below(folder: Path) -> list[Path]:
    """All files of a folder; names that begin with a dot are still being written."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
