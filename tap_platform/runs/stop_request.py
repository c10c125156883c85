"""How a run's driver asks its workers to end: a file in the run directory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tap_platform.runs.directory import RunDirectory

ASKED_TO_END = "asked_to_end"
"""The event of workers that have ended so; their checkpoint is there, or could not be written."""
RESIZE = "room for another number of workers"
"""Why workers end that others follow at once."""
_TRAIN_ON = b"train on\n"


class StopRequest:
    """The file `stop`: when it says anything but `train on`, the workers are to end.

    It is there from the beginning of an attempt, and it is written in place: to open a file that
    exists, a network file system asks its server, but it remembers for a minute that a name was
    missing, or which file a name stood for. An empty file asks to stop, since a file can be emptied
    on a disk that is full.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.path: Path = run.path / "stop"

    def clear(self) -> None:
        """Ask for nothing."""
        self.path.write_bytes(_TRAIN_ON)

    def ask(self, why: str) -> None:
        """Ask the workers to write a checkpoint and end.

        Args:
            why: a few words for people, such as `SIGTERM`; left out where there is no room.
        """
        self.path.write_bytes(b"")
        with suppress(OSError):
            self.path.write_text(why)

    @property
    def why(self) -> str:
        """The words that it was asked with."""
        return self.path.read_text(errors="replace").strip() or "a request"

    @property
    def ends_run(self) -> bool:
        """Whether the workers are to end, and no others follow."""
        return self.asked() and self.why != RESIZE

    def asked(self) -> bool:
        """Whether the workers are to end; they are not where the file is missing or unreadable."""
        try:
            return self.path.read_bytes() != _TRAIN_ON
        except OSError:
            return False
