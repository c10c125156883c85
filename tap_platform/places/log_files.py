"""Logs that are files: what they hold, and what is added while one looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tap_platform.runs.directory import RunDirectory

LOOK_EVERY_SECONDS = 0.2


def file_lines(
    path: Path, ended: Callable[[], bool] = lambda: True, pause: float = LOOK_EVERY_SECONDS
) -> Iterator[str]:
    """The lines of a file, without their ends.

    Args:
        path: the file; it need not be there yet.
        ended: whether nothing is added any more. Until then, more is waited for, and a line that is
            not finished is kept back.
        pause: seconds between looks.
    """
    begun, read = b"", 0
    while True:
        is_last_look = ended()
        for part in _parts(path, read):
            read += len(part)
            begun += part
            if begun.endswith(b"\n"):
                yield _text(begun)
                begun = b""
        if is_last_look:
            break
        time.sleep(pause)
    if begun:
        yield _text(begun)


def rank_lines(
    run: RunDirectory,
    rank: int,
    ended: Callable[[], bool] = lambda: True,
    pause: float = LOOK_EVERY_SECONDS,
) -> Iterator[str]:
    """What one worker printed in the newest attempt that it was part of, and in those that follow.

    Args:
        run: the run's directory; it need not be there yet.
        rank: of the worker.
        ended: whether the run has ended.
        pause: seconds between looks.

    Raises:
        ValueError: if the run has ended, and no attempt had such a worker.
    """
    told = f"{run.name} has no log of rank {rank} in {run.logs}"
    return _attempts_lines(run, lambda attempt: [run.log(attempt, rank)], told, ended, pause)


def driver_lines(
    run: RunDirectory, ended: Callable[[], bool] = lambda: True, pause: float = LOOK_EVERY_SECONDS
) -> Iterator[str]:
    """What the driver printed in the newest attempt, and in those that follow.

    Where it was not kept, as of a driver that somebody started in a terminal, it is the first
    worker's. Args and errors are those of `rank_lines`.
    """

    def logs(attempt: int) -> list[Path]:
        return [run.driver_log(attempt), run.log(attempt, 0)]

    return _attempts_lines(run, logs, f"{run.name} has no log in {run.logs}", ended, pause)


_Logs = Callable[[int], list[Path]]


def _attempts_lines(
    run: RunDirectory, logs: _Logs, told: str, ended: Callable[[], bool], pause: float
) -> Iterator[str]:
    """One log of each attempt from the newest on: the first of those that it may have."""
    shown = 0
    while True:
        is_last_look = ended()
        newest, log = _newest_log(run, logs)
        if log is not None and newest > shown:
            shown = newest
            is_over = partial(_has_gone_on, run, logs, shown, ended)
            yield from file_lines(log, is_over, pause)
        elif is_last_look:
            break
        else:
            time.sleep(pause)
    if not shown:
        raise ValueError(told)


def _has_gone_on(run: RunDirectory, logs: _Logs, attempt: int, ended: Callable[[], bool]) -> bool:
    """Whether an attempt's log is finished: the run has ended, or a later attempt writes."""
    return ended() or _newest_log(run, logs)[0] > attempt


def _newest_log(run: RunDirectory, logs: _Logs) -> tuple[int, Path | None]:
    """The last attempt that has a log, and that; 0 if none has."""
    for attempt in range(run.attempt, 0, -1):
        for log in logs(attempt):
            if log.is_file():
                return attempt, log
    return 0, None


def _parts(path: Path, start: int) -> Iterator[bytes]:
    """What a file holds from a byte on, line by line; nothing while there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            yield from file
    except FileNotFoundError:
        return


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r\n")
