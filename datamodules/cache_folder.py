"""Where a computer keeps copies of remote files, and drafts of files that it sends."""

from __future__ import annotations

import os
import shutil
import socket
from functools import cache
from pathlib import Path
from threading import Lock

import psutil

_LOCK = Lock()


def cache_folder() -> Path:
    """Where this computer keeps copies: `$TAP_CACHE`, or `~/.cache/tap_platform`."""
    return Path(os.environ.get("TAP_CACHE") or "~/.cache/tap_platform").expanduser()


def draft_folder() -> Path:
    """A folder for files that this process sends somewhere, and removes then.

    Its name tells the host and the process. What processes of this host that were killed have left
    is removed when a process first asks.

    Raises:
        OSError: if it cannot be made.
    """
    drafts, host = cache_folder() / "drafts", socket.gethostname()
    own = drafts / f"{host}-{os.getpid()}"
    with _LOCK:
        _remove_left(drafts, host, os.getpid())
    own.mkdir(parents=True, exist_ok=True)
    return own


@cache
def _remove_left(drafts: Path, host: str, own: int) -> None:
    """Remove the drafts of dead processes, one that had this process's number among them."""
    for folder in drafts.glob("*-*"):
        of, _, process = folder.name.rpartition("-")
        if of == host and (int(process) == own or not psutil.pid_exists(int(process))):
            shutil.rmtree(folder, ignore_errors=True)
