"""Processes of a test: started, heard, signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Process:
    """A process and its log."""

    entry: subprocess.Popen[bytes]
    log: Path
    began: int
    """Bytes of the log before its first word."""
    inside: bool
    """Whether `entry` only waits for the process proper, in a host, and hands no signal on."""

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(child_of(self.entry.pid) if self.inside else self.entry.pid, number)

    def kill(self) -> None:
        """End it and its children, in a host or not: they are one group."""
        with suppress(ProcessLookupError):
            os.killpg(self.entry.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """Its exit status, as soon as it has ended."""
        return self.entry.poll()

    def wait(self, seconds: float) -> int:
        """Its exit status.

        Raises:
            subprocess.TimeoutExpired: it goes on for longer.
        """
        return self.entry.wait(seconds)

    def said(self) -> str:
        """What it has said until now."""
        return self.log.read_bytes()[self.began :].decode(errors="replace")

    def says(self, words: str, seconds: float) -> bool:
        """Whether it says something in time, and before it ends."""
        wait_until(lambda: words in self.said() or self.poll() is not None, seconds)
        return words in self.said()


def start(
    command: list[str],
    environment: Mapping[str, str],
    log: Path,
    folder: Path,
    *,
    inside: bool = False,
) -> Process:
    """Start a process in a group of its own; what it says is added to a log."""
    with log.open("ab") as output:
        began = output.tell()
        entry = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Process(entry, log, began, inside)


def child_of(pid: int) -> int:
    """The one process that another has started, as soon as it is there.

    Raises:
        TimeoutError: it starts none.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not wait_until(lambda: bool(children.read_text().split()), seconds=10):
        raise TimeoutError(f"process {pid} starts none")
    return int(children.read_text().split()[0])


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
