"""The CPU time of processes, and what a reader must know of the machine to judge it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import psutil


def cpu_seconds(helpers: Iterable[psutil.Process] = ()) -> float:
    """CPU time of this process and of others with their descendants, since they began.

    Descendants that ended count too, once their parent has waited for them.
    """
    return time.process_time() + sum(map(_tree_seconds, helpers))


def _tree_seconds(root: psutil.Process) -> float:
    seconds = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            seconds += sum(process.cpu_times()[:4])  # user, system, and both of ended children
        except psutil.NoSuchProcess:
            continue
    return seconds


def machine() -> dict[str, Any]:
    """Cores, and the load average of the last 1, 5 and 15 minutes."""
    return {"cores": os.cpu_count(), "load": [round(load, 2) for load in os.getloadavg()]}
