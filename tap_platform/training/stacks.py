"""Where the threads of this process stand, as a person reads it."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

INNERMOST = 4
"""Frames that are always shown; of those around them, only our own."""
MOST_SHOWN = 16
PY_SPY_SECONDS = 60
_OURS = ("tap_platform/", "datamodules/")
_COLLECTIVES = (
    "torch/distributed/",
    "torch/nn/parallel/distributed.py",
    "deepspeed/comm/",
    "deepspeed/runtime/zero/partition",
    "ray/train/collective/",
)
_DEVICE_WAITS = frozenset({"_engine_run_backward", "synchronize"})
"""Functions of torch that return when all gradients have come, or the GPU is done."""
_THREAD = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'  File "(.+)", line (\d+) in (.+)')


class Frame(NamedTuple):
    """A call that has not returned."""

    function: str
    file: str
    """Path below the folder that Python has imported it from."""
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


class ThreadStack(NamedTuple):
    """Where one thread stands."""

    ident: int
    """As `threading.get_ident` tells it."""
    name: str
    frames: list[Frame]
    """Innermost first."""

    def __str__(self) -> str:
        return "\n".join([f"thread {self.name}", *(f"    {frame}" for frame in self.frames)])

    @property
    def waits_for_others(self) -> bool:
        """Whether it waits in a collective, or in what ends with one, such as DDP's backward pass.

        On GPUs collectives run beside Python: there a worker waits wherever it next needs a result.
        """
        return any(
            frame.file.startswith(_COLLECTIVES) or frame.function in _DEVICE_WAITS
            for frame in self.frames[:INNERMOST]
        )

    def in_short(self) -> list[str]:
        """The innermost frames, and those around them that are this project's."""
        around = [frame for frame in self.frames[INNERMOST:] if frame.file.startswith(_OURS)]
        return [str(frame) for frame in (self.frames[:INNERMOST] + around)[:MOST_SHOWN]]


def all_stacks() -> tuple[list[ThreadStack], str]:
    """The Python stacks of all threads of this process, and who has told them.

    py-spy tells them without a hand in the interpreter; where a container does not let it,
    Python's own faulthandler does.
    """
    try:
        return _by_py_spy(), "py-spy"
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", None) or error
        return _by_faulthandler(), f"faulthandler, for py-spy has failed: {str(said).strip()}"


def stack_of(ident: int, stacks: Sequence[ThreadStack]) -> ThreadStack:
    """The stack of one thread; an empty one if it has ended."""
    return next((s for s in stacks if s.ident == ident), ThreadStack(ident, "ended", []))


def _by_py_spy() -> list[ThreadStack]:
    program = Path(sys.executable).with_name("py-spy")
    dump = subprocess.run(
        [program, "dump", "--nonblocking", "--json", "--pid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=True,
        timeout=PY_SPY_SECONDS,
    )
    return [
        ThreadStack(
            thread["thread_id"],
            thread["thread_name"] or "without a name",
            [Frame(f["name"], _short(f["filename"]), f["line"]) for f in thread["frames"]],
        )
        for thread in json.loads(dump.stdout)
    ]


def _by_faulthandler() -> list[ThreadStack]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        lines = file.read().splitlines()
    stacks: list[ThreadStack] = []
    for line in lines:
        if found := _THREAD.match(line):
            ident = int(found[1], 16)
            stacks.append(ThreadStack(ident, names.get(ident, "without a name"), []))
        elif found := _FRAME.match(line):
            stacks[-1].frames.append(Frame(found[3], _short(found[1]), int(found[2])))
    return stacks


def _short(file: str) -> str:
    """The path below the longest folder of `sys.path` that holds it."""
    folders = [f"{folder.rstrip('/')}/" for folder in sys.path if folder]
    inside = [folder for folder in folders if file.startswith(folder)]
    return file.removeprefix(max(inside, key=len, default=""))
