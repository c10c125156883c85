"""What SIGTERM and Ctrl-C do to a driver while its workers train."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

LOOK_EVERY_SECONDS = 0.1


@contextmanager
def own_signals() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, and take both signals back from Ray afterwards.

    Ray's own answer to SIGTERM aborts the process; to Ctrl-C it answers after its workers are gone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ctrl_c = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ctrl_c)


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, _ignore)
    sys.exit(128 + number)


def _ignore(number: int, frame: object) -> None:
    """Unlike SIG_IGN, it is not handed on to programs that are started afterwards."""


def run_until_signalled(
    work: Callable[[], object], ask_to_stop: Callable[[str], None], grace_seconds: float
) -> str | None:
    """Do the work; at SIGTERM or Ctrl-C, ask it to stop and wait for its end.

    The work runs in a thread of its own: there Ray leaves the signals alone. Whoever ends a pod may
    send SIGTERM twice, so that only Ctrl-C hurries what has been asked to stop. SIGTERM stays
    without effect afterwards: what follows the work, such as its last records, is not cut short.

    Args:
        work: what may take long.
        ask_to_stop: told the name of the first signal, in the main thread.
        grace_seconds: how long the work may go on after that.

    Returns:
        The name of the first signal, such as `SIGTERM`; None if there was none. Outside of the main
        thread, signals are not looked at.

    Raises:
        SystemExit: if Ctrl-C comes after the first signal, or the work outlives its grace; the work
            goes on in its thread then, until the process ends.
    """
    if threading.current_thread() is not threading.main_thread():
        work()
        return None
    come: list[signal.Signals] = []
    with _noted(come):
        done = _in_thread(work)
        deadline = float("inf")
        while not _is_over(done):
            if come and deadline == float("inf"):
                deadline = time.monotonic() + grace_seconds
                ask_to_stop(come[0].name)
            if signal.SIGINT in come[1:] or time.monotonic() > deadline:
                sys.exit(128 + come[0])
        if not come:
            done.result()
    return come[0].name if come else None


@contextmanager
def _noted(come: list[signal.Signals]) -> Iterator[None]:
    """Add both signals to a list as they come; one that has come makes further SIGTERMs void."""

    def note(number: int, frame: FrameType | None) -> None:
        come.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if come:
            before[signal.SIGTERM] = _ignore
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_thread(work: Callable[[], object]) -> Future[None]:
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    return done


def _is_over(done: Future[None]) -> bool:
    """Wait a moment; a thread that waits longer hears of no signal meanwhile."""
    try:
        done.exception(timeout=LOOK_EVERY_SECONDS)
    except TimeoutError:
        return False
    return True
