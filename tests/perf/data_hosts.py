"""What the data benchmark asks of the process that its Ray belongs to."""

from __future__ import annotations

import logging
import statistics
from typing import Any

import psutil
from data_ways import WAYS, WORKERS, Reading, take

WATCHED_EVERY = 20
"""Samples between two looks at the memory."""
MARKS = 4
"""Places of the run that the memory is told at, the last one at its end."""


def start() -> None:
    """Start Ray with places for the data tasks of any way."""
    from tap_platform.launch.ray_session import start_ray

    start_ray(WORKERS + 1)
    logging.disable(logging.WARNING)  # Ray Data tells of every pass


def stop() -> None:
    """End Ray."""
    import ray

    ray.shutdown()


def watch_memory(reading: Reading) -> dict[str, Any]:
    """Memory while samples run through our stream, in MB.

    Returns:
        `worker` and `ray`, each with the memory at a quarter of the samples, at a half and so on:
        medians over the looks around them, as batches come and go. `worker` is what this process
        holds for itself; `ray` is that of all processes, and the object store. `growth_mb` is from
        the first of these places to the last.
    """
    samples, looks = reading.samples, []
    batches = WAYS["stream"](reading)
    for _ in range(samples // WATCHED_EVERY):
        take(batches, WATCHED_EVERY)
        looks.append(_megabytes())
    batches.close()
    around = max(1, len(looks) // (2 * MARKS))
    found: dict[str, Any] = {"samples": samples}
    for place, name in enumerate(("worker", "ray")):
        row = {}
        for mark in range(1, MARKS + 1):
            end = mark * len(looks) // MARKS
            values = [look[place] for look in looks[max(0, end - around) : end]]
            row[str(mark * samples // MARKS)] = round(statistics.median(values), 1)
        values = list(row.values())
        found[name] = {"mb": row, "growth_mb": round(values[-1] - values[0], 1)}
    return found


def _megabytes() -> tuple[float, float]:
    """What this process holds for itself; what it, its children and the object store hold."""
    own, private, shared = 0, 0, 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        private += memory.rss - memory.shared
        shared = max(shared, memory.shared)
        if process == this:
            own = memory.rss - memory.shared
    return own / 1e6, (private + shared) / 1e6
