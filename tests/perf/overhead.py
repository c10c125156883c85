"""What the product's training loop costs beside a bare PyTorch loop, a step.

    python tests/perf/overhead.py [--workers 1 2] [--steps 60] [--image-size 256] [--images 6]

Each variant is one real run: Ray Train, Lightning, all default callbacks, records and the data
stream. After every step of the product, the same process takes a step of a bare loop (forward,
backward, AdamW, schedule, torch's data parallelism) with a copy of the model on the same decoded
batch: a change of the machine's load meets both. The overhead of a step is its time over the mean
of the bare steps before and after it; shown are the median and the quartiles. The second half of
the steps is taken apart: what the time is spent on that the bare loop does not spend.

Reading and decoding ahead run in other threads and processes, here on cores that both loops
compute on: `other_threads` is their CPU time a step. The last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import pairwise
from typing import Any

from inside_runs import one_ray, scenes_job, train_with
from machine import machine
from rich.console import Console
from rich.table import Table


def measure(settings: argparse.Namespace, workers: int, folder: Any) -> dict[str, Any]:
    """Overhead of one variant, and its parts, in seconds a step."""
    size = settings.image_size
    job = scenes_job(
        folder,
        f"overhead-{workers}",
        model={"preset": "tiny", "image_size": size, "window_size": 4},
        training={"max_steps": settings.steps, "global_batch": settings.images * workers},
        data={"scene_size": size, "partitions": workers},
        scale={"workers": workers},
    )
    return summarize(train_with(job, "bare_loop:BareBeside"))


def summarize(measured: dict[str, Any]) -> dict[str, Any]:
    """Medians, quartiles, and the parts of both loops."""
    ours, bare = measured["ours"][1:], measured["bare"]
    around = [(before + after) / 2 for before, after in pairwise(bare)]
    shares = [own / other - 1 for own, other in zip(ours, around, strict=True)]
    low, median, high = statistics.quantiles(shares, n=4)
    phases = measured["phases"]
    parts = {
        name: phases["ours"].get(name, 0.0) - phases["bare"].get(name, 0.0)
        for name in sorted(set(phases["ours"]) | set(phases["bare"]))
    }
    return {
        "overhead": round(median, 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "step_seconds": {
            "ours": round(statistics.median(ours), 4),
            "bare": round(statistics.median(bare), 4),
        },
        "steps": len(shares),
        "more_than_bare_ms": {name: round(1000 * part, 2) for name, part in parts.items()},
        "other_threads": round(measured["other_threads"], 4),
    }


def print_table(console: Console, results: dict[str, dict[str, Any]]) -> None:
    """One column a variant."""
    table = Table(title="The product's loop beside a bare one")
    table.add_column("a step")
    for name in results:
        table.add_column(name, justify="right")
    rows = {
        "overhead, median": lambda r: f"{r['overhead']:.2%}",
        "  quartiles": lambda r: " to ".join(f"{q:.2%}" for q in r["quartiles"]),
        "the product, s": lambda r: f"{r['step_seconds']['ours']:.3f}",
        "bare, s": lambda r: f"{r['step_seconds']['bare']:.3f}",
        "reading and decoding ahead, CPU s": lambda r: f"{r['other_threads']:.3f}",
    }
    for title, show in rows.items():
        table.add_row(title, *map(show, results.values()))
    table.add_section()
    parts = dict.fromkeys(name for each in results.values() for name in each["more_than_bare_ms"])
    for part in parts:
        cells = (each["more_than_bare_ms"].get(part) for each in results.values())
        table.add_row(f"{part}, ms more", *("" if c is None else f"{c:.2f}" for c in cells))
    console.print(table)


def main() -> None:
    """Run the variants, one after the other, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--images", type=int, default=6, help="of each worker (default: 6)")
    settings = parser.parse_args()
    console = Console(width=100)
    with one_ray(2 * max(settings.workers) + 1) as folder:
        results = {f"{n} workers": measure(settings, n, folder) for n in settings.workers}
    print_table(console, results)
    print(json.dumps({**results, "settings": vars(settings), **machine()}))


if __name__ == "__main__":
    main()
