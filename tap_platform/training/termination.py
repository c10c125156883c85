"""SIGTERM, seen from a thread that is not the main one."""

from __future__ import annotations

import faulthandler
import os
import signal
from contextlib import suppress


class Termination:
    """Take SIGTERM as a request, in place of what the process would do at it.

    Ray trains in a thread, and Python lets only the main thread handle signals: Ray's own handler
    ends the process there. faulthandler's is the one handler that any thread may install. It is
    plain C and writes a stack trace; here it writes into a pipe, and something in the pipe means
    that the signal has come.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._come = False
        faulthandler.register(signal.SIGTERM, self._writer, all_threads=False, chain=False)

    @property
    def come(self) -> bool:
        """Whether the signal has come since."""
        if not self._come:
            with suppress(BlockingIOError):
                self._come = bool(os.read(self._reader, 1))
        return self._come

    def close(self) -> None:
        """Give the signal back to whom it belonged."""
        faulthandler.unregister(signal.SIGTERM)
        os.close(self._reader)
        os.close(self._writer)
