"""How a run's driver asks its workers to end: a file in the run directory."""

from __future__ import annotations

from pathlib import Path

from tap_platform.runs.directory import RunDirectory


class StopRequest:
    """The file `stop`, which says why the workers are to write a checkpoint and end.

    It is there, empty, from the beginning of an attempt, and it is written in place: to open a file
    that exists, a network file system asks its server, but it remembers for a minute that a name
    was missing, or which file a name stood for.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.path: Path = run.path / "stop"

    def clear(self) -> None:
        """Ask for nothing."""
        self.path.write_text("")

    def ask(self, why: str) -> None:
        """Ask the workers to end.

        Args:
            why: a few words, such as `SIGTERM`.
        """
        self.path.write_text(why)

    def asked(self) -> bool:
        """Whether the workers are to end; they are not where no driver has made the file."""
        try:
            return bool(self.path.read_bytes())
        except FileNotFoundError:
            return False
