"""What a run's driver prints, in the run directory too: a cluster forgets it when it ends."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tap_platform.launch.errors import RunFailedError
from tap_platform.runs.directory import RunDirectory

LOG_IS_KEPT = "TAP_DRIVER_LOG"
"""Variable of a driver whose log is kept already: where."""
_COPY_EVERY_SECONDS = 0.2
_STDOUT = 1
_OURS = Path(f"/dev/fd/{_STDOUT}")


@contextmanager
def copied_log(run: RunDirectory) -> Iterator[None]:
    """Copy what this process prints into the directory of the attempt that the block begins.

    Only where its output is a file, as Ray gives it to drivers, and as it is for `nohup`: that file
    is read, so that the output itself goes its way whatever becomes of the copy. What libraries
    print without Python is in it, and the error that ends the block; what is printed before the
    attempt begins comes first.

    Args:
        run: the run; it need not be there yet.
    """
    printed = None if LOG_IS_KEPT in os.environ else _printed()
    if printed is None:
        yield
        return
    with printed, _Copy(run, printed) as copy:
        try:
            yield
        except (ValueError, OSError, RunFailedError) as error:
            copy.last_words = f"tap: {error}\n"
            raise


class _Copy:
    """A thread that writes on what is printed."""

    def __init__(self, run: RunDirectory, printed: BinaryIO) -> None:
        self.last_words = ""
        """What is printed when nobody copies any more."""
        self._run, self._printed = run, printed
        self._before = run.attempt
        self._file: BinaryIO | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="driver-log", daemon=True)

    def __enter__(self) -> _Copy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        self._ending.set()
        self._thread.join()

    def _follow(self) -> None:
        """A storage that takes no log is no reason to stop the run."""
        with suppress(OSError):
            while not self._ending.wait(_COPY_EVERY_SECONDS):
                self._copy()
            self._copy()
            if self._file is not None:
                self._file.write(self.last_words.encode())
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _copy(self) -> None:
        if self._file is None and self._run.attempt > self._before:
            self._file = self._run.driver_log(self._run.attempt).open("ab", buffering=0)
        if self._file is not None:
            while part := self._printed.read(1 << 20):
                self._file.write(part)


def _printed() -> BinaryIO | None:
    """What this process has printed and will print, from here on; None if it is not in a file."""
    if not stat.S_ISREG(os.fstat(_STDOUT).st_mode):
        return None
    try:
        printed = _OURS.open("rb", buffering=0)
    except OSError:
        return None
    printed.seek(0, os.SEEK_END)
    return printed
