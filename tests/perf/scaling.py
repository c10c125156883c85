"""Weak scaling: the same work for every worker, for one worker, two, four.

    python tests/perf/scaling.py [--workers 1 2 4] [--strategies ddp zero_2] [--steps 30]

Each row is one real run; every worker computes with one thread. After every step of the product,
the same processes take a step each on the same batch without a word to each other. So what a
step takes longer than with one worker falls in two: workers that share cores and memory (`alone` is
slower too), and workers that talk and wait for each other (the product is slower than `alone`, more
so than with one worker). With more workers than cores the first must grow by the number of workers
a core. Times are medians; the last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from inside_runs import one_ray, scenes_job, train_with
from machine import machine
from rich.console import Console
from rich.table import Table


def measure(settings: argparse.Namespace, strategy: str, workers: int, folder: Path) -> Any:
    """Seconds of a step of so many workers, together and each alone."""
    size = settings.image_size
    job = scenes_job(
        folder,
        f"{strategy}-{workers}",
        model={"preset": "tiny", "image_size": size, "window_size": 4},
        training={"max_steps": settings.steps, "global_batch": settings.images * workers},
        data={"scene_size": size, "partitions": workers, "path": f"{folder}/scenes"},
        scale={"workers": workers, "strategy": strategy},
    )
    measured = train_with(job, "bare_loop:BareBeside", together=False)
    return {
        "together": statistics.median(measured["ours"]),
        "alone": statistics.median(measured["bare"]),
    }


def compare(seconds: dict[str, float], first: dict[str, float], workers: int) -> dict[str, float]:
    """Efficiencies of a number of workers; 1 is as good as the fewest workers measured."""
    cores = os.cpu_count() or 1
    crowding = max(1.0, workers / cores)
    sharing = first["alone"] / seconds["alone"]
    whole = first["together"] / seconds["together"]
    figures = {
        "seconds": seconds["together"],
        "alone_seconds": seconds["alone"],
        "efficiency": whole,
        "efficiency_of_cores": whole * crowding,
        "sharing": sharing,
        "talking": whole / sharing,
    }
    return {name: round(value, 3) for name, value in figures.items()}


def print_table(console: Console, results: dict[str, dict[str, dict[str, float]]]) -> None:
    """One row a run."""
    table = Table(title="Weak scaling, the same work for every worker")
    titles = ("strategy", "workers", "step s", "alone s", "efficiency", "of the cores")
    for title in (*titles, "left by sharing", "left by talking"):
        table.add_column(title, justify="left" if title == "strategy" else "right")
    for strategy, rows in results.items():
        for workers, row in rows.items():
            shares = (f"{row[n]:.0%}" for n in list(row)[2:])
            table.add_row(
                strategy, workers, f"{row['seconds']:.3f}", f"{row['alone_seconds']:.3f}", *shares
            )
    console.print(table)


def main() -> None:
    """Run all, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--strategies", nargs="+", default=["ddp"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--image-size", type=int, default=192)
    parser.add_argument("--images", type=int, default=4, help="of each worker (default: 4)")
    settings = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    with one_ray(2 * max(settings.workers) + 1) as folder:
        for strategy in settings.strategies:
            seconds = {n: measure(settings, strategy, n, folder) for n in settings.workers}
            first = seconds[settings.workers[0]]
            results[strategy] = {str(n): compare(s, first, n) for n, s in seconds.items()}
    print_table(Console(width=110), results)
    print(json.dumps({"scaling": results, "settings": vars(settings), **machine()}))


if __name__ == "__main__":
    main()
