"""The log that a directory holds; of a sweep, what its driver printed or its records tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tap_platform.places.log_files import LOOK_EVERY_SECONDS, driver_lines, rank_lines
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_records


def directory_lines(
    directory: RunDirectory,
    rank: int | None,
    ended: Callable[[], bool] = lambda: True,
    pause: float = LOOK_EVERY_SECONDS,
) -> Iterator[str]:
    """The log of a run's directory, or of a sweep's.

    Args:
        directory: it need not be there yet.
        rank: of one worker; None is the driver.
        ended: whether the run has ended; until then, more is waited for.
        pause: seconds between looks.

    Raises:
        ValueError: if there is none, or a sweep is asked for a rank.
    """
    if directory.is_sweep and rank is not None:
        trial = f"tap logs {directory.name}-t0000 --rank {rank}"
        raise ValueError(f"{directory.name} is a sweep, and its trials have ranks: {trial}")
    if directory.is_sweep:
        return sweep_lines(directory, ended, pause)
    if rank is None:
        return driver_lines(directory, ended, pause)
    return rank_lines(directory, rank, ended, pause)


def sweep_lines(
    sweep: RunDirectory,
    ended: Callable[[], bool] = lambda: True,
    pause: float = LOOK_EVERY_SECONDS,
) -> Iterator[str]:
    """The lines of a sweep's driver; of one in a terminal, which keeps none, a line a record.

    Args:
        sweep: the sweep's directory.
        ended: whether the sweep has ended; until then, more is waited for.
        pause: seconds between looks.

    Raises:
        ValueError: if there is neither.
    """
    if sweep.driver_log(sweep.attempt).is_file():
        yield from driver_lines(sweep, ended, pause)
        return
    path, offset = sweep.path / "trials.jsonl", 0
    while True:
        is_last_look = ended()
        records, end = read_records(path, offset)
        yield from map(record_line, records)
        if end == offset and is_last_look:
            break
        if end == offset:
            time.sleep(pause)
        offset = end
    if not offset:
        raise ValueError(f"{sweep.name} has no trials yet, and its driver's log is not kept")


def record_line(record: Mapping[str, Any]) -> str:
    """`2026-11-22 11:02:33  t0003  measured 0.7123 at step 90; stopped by asha`."""
    told = [str(record.get("time", ""))[:19].replace("T", " "), str(record.get("trial", "?"))]
    return "  ".join([*told, "; ".join(_words(record))])


def values_in_words(values: Mapping[str, Any]) -> str:
    """`optimizer.lr=0.00123  seed=2`."""
    return "  ".join(f"{key}={_short(value)}" for key, value in values.items())


def _words(record: Mapping[str, Any]) -> Iterator[str]:
    what, values = record.get("what"), record.get("values")
    if what == "measured":
        yield f"measured {_short(record.get('objective'))} at step {record.get('step')}"
    elif what == "started":
        yield f"started: {record.get('run')}"
    elif what == "suggested" and isinstance(values, dict):
        yield f"is to try {values_in_words(values)}"
    if record.get("state") in ("stopped", "finished", "failed"):
        reason = str(record.get("reason") or "").partition("\n")[0]
        yield f"{record['state']}{f': {reason}' if reason else ''}"
    exploit = record.get("exploit")
    if what == "measured" and isinstance(exploit, dict) and isinstance(values, dict):
        whose = f"{exploit.get('trial')} at step {exploit.get('step')}"
        yield f"goes on from {whose} with {values_in_words(values)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
