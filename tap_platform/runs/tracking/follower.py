"""Keeps a tracker up with a run directory, or a sweep's, at any time during it or after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tap_platform.runs.files import locked
from tap_platform.runs.passes import BackgroundPasses
from tap_platform.runs.status import RunStatus
from tap_platform.runs.tracking.base import Tracker, TrackerRefusedError
from tap_platform.runs.tracking.cursor import Cursor
from tap_platform.runs.tracking.source import Source


class Follower(BackgroundPasses):
    """Reads what is new in a directory and sends it to a tracker.

    Training only writes files, so a tracker that is slow or down costs it nothing, and whatever
    could not be sent is sent by a later pass, in this process or another. A cursor in the
    directory tells how far the tracker is.
    """

    def __init__(self, source: Source, tracker: Tracker, interval: float = 5.0) -> None:
        """Send nothing yet.

        Args:
            source: What to follow.
            tracker: Where to show it.
            interval: Seconds between two passes in the background.
        """
        super().__init__(source.run, "tracking", interval, tracker=tracker.name)
        self.source = source
        self.tracker = tracker
        self._cursor_path = source.run.path / f"tracking-{tracker.name}.json"
        self._held = ExitStack()
        self._cursor: Cursor | None = None

    def sync(self) -> int:
        """Send all that is new, once, and lets go of the tracker.

        Returns:
            The number of records and files sent; 0 if the tracker needed nothing.

        Raises:
            TrackerRefusedError: The tracker did not take it, and it is known why.
            RuntimeError: Another process follows this run with this tracker.
            Exception: Whatever else the tracker raises; the rest is sent by a later call.
        """
        try:
            return self._pass()
        finally:
            self._release()

    def _pass(self) -> int:
        try:
            return self._send_all()
        except TrackerRefusedError:
            raise
        except Exception as error:
            advice = self.tracker.advice(error)
            if advice is None:
                raise
            raise TrackerRefusedError(f"{advice} ({_first_line(error)})") from error

    def _send_all(self) -> int:
        status = self.source.status()
        if not self._has_news(self._cursor or Cursor.load(self._cursor_path), status):
            return 0
        cursor = self._cursor or self._begin()
        sent = self._send_metrics(cursor) + self._send_changes(cursor)
        sent += self._send_files(cursor, status)
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
        measured = self.source.records(cursor.offset)[1] > cursor.offset
        ended = status.ended and cursor.state != status.state
        began = status.ended or cursor.offset > 0
        return measured or ended or (began and any(self._new_files(cursor, status)))

    def _begin(self) -> Cursor:
        """Open the tracked run, alone, and begin again what the tracker does not know."""
        lock = self.source.run.path / f".tracking-{self.tracker.name}.lock"
        try:
            self._held.enter_context(locked(lock, wait=False))
        except BlockingIOError as error:
            raise RuntimeError(
                f"another process sends {self.source.run.name} to {self.tracker.name}: let it"
                " finish first"
            ) from error
        cursor = Cursor.load(self._cursor_path)
        session = self.tracker.start(self.source.shown(), cursor.run_id)
        if session.next_step is not None:
            known = min(cursor.changes, self.source.changes_before(session.next_step))
            cursor = Cursor(first_step=session.next_step, changes=known)
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
            found, end = self.source.records(cursor.offset)
            if end == cursor.offset:
                return sent
            if records := cursor.take(found):
                self.tracker.log_metrics(self.source.completed(records, cursor))
            cursor.offset = end
            cursor.save(self._cursor_path)
            sent += len(records)

    def _send_changes(self, cursor: Cursor) -> int:
        changes = self.source.send_changes(self.tracker, cursor)
        if changes:
            cursor.save(self._cursor_path)
        return changes

    def _send_files(self, cursor: Cursor, status: RunStatus) -> int:
        sent = 0
        for path, version in self._new_files(cursor, status):
            self.source.send_file(path, self.tracker, cursor.first_step)
            cursor.files[self._relative(path)] = version
            cursor.save(self._cursor_path)
            sent += 1
        return sent

    def _new_files(self, cursor: Cursor, status: RunStatus) -> Iterator[tuple[Path, str]]:
        for path in self.source.files(status):
            stat = path.stat()
            version = f"{stat.st_size}-{stat.st_mtime_ns}"
            sent = cursor.files.get(self._relative(path))
            if sent is None or (sent != version and not self.source.is_sent_once(path)):
                yield path, version

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.source.run.path).as_posix()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
