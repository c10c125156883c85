"""The most memory that a piece of work takes, beside what was in use before it."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Peak of the work above what was allocated before: of the GPU, or of this process on Linux.

    On a CPU it is resident memory, to the page: what the allocator keeps is given back first.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)
    (_PROCESS / "clear_refs").write_text("5")  # resets the high-water mark
    before = _status_bytes("VmRSS")
    work()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", (_PROCESS / "status").read_text())
    assert found, f"/proc/self/status has no {field}"
    return 1024 * int(found[1])
