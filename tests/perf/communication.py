"""What workers say to each other in a step: bytes of every collective, beside formulas.

    python tests/perf/communication.py [--strategies ddp zero_1 zero_2 zero_3 fsdp] [--workers 2 4]

Each strategy trains the tiny model in a real run, with one record of the metrics every step. Torch
tells every collective that it issues, with its tensors. Bytes are those of the whole tensor that is
reduced or gathered, in units of the trained parameters' bytes in float32; `ring` is what a worker
sends by ring algorithms: 2 (n - 1) / n of an all-reduce, (n - 1) / n of a reduce-scatter, an
all-gather or a broadcast. `formula` is what docs/scaling.md says of the strategy. The last line is
everything as JSON. `communication_model.py` carries the formulas to many GPUs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from communication_model import FORMULAS, ring_share
from inside_runs import one_ray, scenes_job, train_with
from machine import machine
from rich.console import Console
from rich.table import Table

FLOAT32 = 4


def measure(strategy: str, workers: int, steps: int, folder: Path) -> dict[str, Any]:
    """Collectives of a step, in units of the trained parameters."""
    from tap_platform.launch.parameters import count_parameters

    job = scenes_job(
        folder,
        f"{strategy}-{workers}",
        training={"max_steps": steps, "global_batch": 4, "log_every": 1},
        data={"path": f"{folder}/scenes"},
        scale={"workers": workers, "strategy": strategy},
    )
    counts = count_parameters(job.model)
    trained = sum(counts[part] for part in job.recipe.trained_parts)
    told = train_with(job, "collectives:CountCollectives")
    rows = [
        {
            **each,
            "parameters": each["bytes"] / (FLOAT32 * trained),
            "ring": ring_share(each["collective"], workers) * each["bytes"] / (FLOAT32 * trained),
        }
        for each in told["collectives"]
    ]
    strategy_ring = sum(row["ring"] for row in rows if row["speaker"] == "strategy")
    return {
        "rows": sorted(rows, key=lambda row: -row["bytes"]),
        "trained_parameters": trained,
        "strategy_ring": round(strategy_ring, 4),
        "formula_ring": round(FORMULAS[strategy].sent(workers), 4),
    }


def print_table(console: Console, results: dict[str, dict[str, Any]]) -> None:
    """One row a strategy, speaker and collective."""
    table = Table(title="What workers say in a step, in units of the trained parameters")
    for title in ("run", "who", "collective", "calls", "bytes", "parameters", "ring"):
        table.add_column(title, justify="left" if title in ("run", "who") else "right")
    for run, result in results.items():
        for row in result["rows"]:
            numbers = f"{row['calls']:.1f}", f"{row['bytes']:,.0f}", f"{row['parameters']:.4f}"
            table.add_row(run, row["speaker"], row["collective"], *numbers, f"{row['ring']:.4f}")
        sums = f"{result['strategy_ring']:.4f}", f"{result['formula_ring']:.4f}"
        table.add_row(run, "the strategy, ring; formula", "", "", "", *sums, style="bold")
        table.add_section()
    console.print(table)


def main() -> None:
    """Run all, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategies", nargs="+", choices=FORMULAS, default=list(FORMULAS))
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=7)
    settings = parser.parse_args()
    with one_ray(2 * max(settings.workers) + 1) as folder:
        results = {
            f"{strategy}, {workers}": measure(strategy, workers, settings.steps, folder)
            for strategy in settings.strategies
            for workers in settings.workers
        }
    print_table(Console(width=120), results)
    print(json.dumps({"communication": results, "settings": vars(settings), **machine()}))


if __name__ == "__main__":
    main()
