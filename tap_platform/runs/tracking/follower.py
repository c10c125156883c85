"""Keeps a tracker up with a run directory, during the run or at any time after it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import locked, read_json, read_records
from tap_platform.runs.metrics import parse_metrics
from tap_platform.runs.passes import BackgroundPasses
from tap_platform.runs.provenance import tags_of
from tap_platform.runs.status import RunStatus, read_status
from tap_platform.runs.tracking.base import Tracker, flatten
from tap_platform.runs.tracking.cursor import Cursor

_STEP_IN_NAME = re.compile(r"step-(\d+)$")


class Follower(BackgroundPasses):
    """Reads what is new in a run directory and sends it to a tracker.

    Training only writes files, so a tracker that is slow or down costs it nothing, and whatever
    could not be sent is sent by a later pass, in this process or another. A cursor in the run
    directory tells how far the tracker is.
    """

    def __init__(self, run: RunDirectory, tracker: Tracker, interval: float = 5.0) -> None:
        """Send nothing yet.

        Args:
            run: The run to follow.
            tracker: Where to show it.
            interval: Seconds between two passes in the background.
        """
        super().__init__(run, "tracking", interval, tracker=tracker.name)
        self.tracker = tracker
        self._cursor_path = run.path / f"tracking-{tracker.name}.json"
        self._held = ExitStack()
        self._cursor: Cursor | None = None

    def sync(self) -> int:
        """Send all that is new, once, and lets go of the tracker.

        Returns:
            The number of records and files sent; 0 if the tracker needed nothing.

        Raises:
            RuntimeError: Another process follows this run with this tracker.
            Exception: Whatever the tracker raises; the rest is sent by a later call.
        """
        try:
            return self._pass()
        finally:
            self._release()

    def _pass(self) -> int:
        status = read_status(self.run.status)
        if not self._has_news(self._cursor or Cursor.load(self._cursor_path), status):
            return 0
        cursor = self._cursor or self._begin()
        sent = self._send_metrics(cursor) + self._send_files(cursor, status)
        if status.ended:
            self.tracker.finish(status.state, status.updated)
            cursor.state = status.state
            cursor.save(self._cursor_path)
            self._release()
        return sent

    def _has_news(self, cursor: Cursor, status: RunStatus) -> bool:
        """Whether there is reason to talk to the tracker.

        A run has nothing to show before its first record: connecting would only slow its start.
        """
        measured = read_records(self.run.metrics, cursor.offset)[1] > cursor.offset
        ended = status.ended and cursor.state != status.state
        began = status.ended or cursor.offset > 0
        return measured or ended or (began and any(self._new_files(cursor, status)))

    def _begin(self) -> Cursor:
        """Open the tracked run, alone, and begin again what the tracker does not know."""
        try:
            self._held.enter_context(
                locked(self.run.path / f".tracking-{self.tracker.name}.lock", wait=False)
            )
        except BlockingIOError as error:
            raise RuntimeError(
                f"another process sends {self.run.name} to {self.tracker.name}: let it finish first"
            ) from error
        cursor = Cursor.load(self._cursor_path)
        session = self.tracker.start(self.run, cursor.run_id)
        if session.next_step is not None:
            cursor = Cursor(first_step=session.next_step)
        cursor.run_id, cursor.state = session.run_id, None
        cursor.save(self._cursor_path)
        self._cursor = cursor
        return cursor

    def _release(self) -> None:
        self._cursor = None
        with self._held:
            self.tracker.close()

    def _abandon(self) -> None:
        self.tracker.abandon()

    def _send_metrics(self, cursor: Cursor) -> int:
        sent = 0
        while True:
            lines, end = read_records(self.run.metrics, cursor.offset)
            if end == cursor.offset:
                return sent
            if records := cursor.take(parse_metrics(lines)):
                self.tracker.log_metrics(records)
            cursor.offset = end
            cursor.save(self._cursor_path)
            sent += len(records)

    def _send_files(self, cursor: Cursor, status: RunStatus) -> int:
        sent = 0
        for path, version in self._new_files(cursor, status):
            self._send_file(path, cursor.first_step)
            cursor.files[self._relative(path)] = version
            cursor.save(self._cursor_path)
            sent += 1
        return sent

    def _send_file(self, path: Path, first_step: int) -> None:
        if path.is_relative_to(self.run.pictures):
            found = _STEP_IN_NAME.search(path.stem)
            step = int(found[1]) if found else None
            if step is None or step >= first_step:
                self.tracker.log_picture(path, step)
            return
        if path == self.run.config:
            self.tracker.log_params(dict(flatten(read_json(path))))
        elif path == self.run.provenance:
            self.tracker.set_tags(tags_of(read_json(path)))
        self.tracker.log_file(path)

    def _new_files(self, cursor: Cursor, status: RunStatus) -> Iterator[tuple[Path, str]]:
        for path in self._files(status):
            stat = path.stat()
            version = f"{stat.st_size}-{stat.st_mtime_ns}"
            if cursor.files.get(self._relative(path)) != version:
                yield path, version

    def _files(self, status: RunStatus) -> Iterator[Path]:
        """What a tracker keeps a copy of; names that begin with a dot are still being written."""
        single = [self.run.config, self.run.pipeline, self.run.plan, self.run.provenance]
        if status.ended:
            single.append(self.run.events)
        yield from (path for path in single if path.exists())
        for folder in (self.run.pictures, self.run.report):
            paths = sorted(folder.rglob("*"))
            yield from (p for p in paths if p.is_file() and not p.name.startswith("."))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.run.path).as_posix()
