"""What successive halving saves beside the whole grid, and what a sweep costs beside bare runs.

    python tests/perf/sweeps.py [--steps 720] [--first-rung 60] [--at-once 2] [--skip-grid]

One grid of learning rates and dice weights, on the scenes job of `jobs/tap_tiny_scenes.yaml` at a
quarter of its pixels, is run twice: every trial to its end, and with ASHA. Told are the optimizer
steps that all trials of each made, as their metrics have them, what was stopped a moment too late
included; and how the configuration that ASHA ranks first ends in the whole grid, beside the grid's
best.

The overhead is that of a trial of few steps in a sweep, one after the other, over a bare run of the
same job, in the same Ray. The last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from inside_runs import one_ray
from machine import machine
from rich.console import Console
from rich.table import Table

from tap_platform.launch.train import create_run, train
from tap_platform.runs.metrics import read_metrics
from tap_platform.sweeps.directory import SweepDirectory
from tap_platform.sweeps.records import TrialRecord, newest_records
from tap_platform.sweeps.sweep import start_sweep
from tap_platform.sweeps.trial_jobs import trial_job

JOB = Path(__file__).resolve().parents[2] / "jobs" / "tap_tiny_scenes.yaml"
SPACE = {
    "optimizer.lr": {"grid": [1e-3, 2e-3, 4e-3, 8e-3]},
    "recipe.objective.dice_weight": {"grid": [10, 20, 40]},
}


def spec(folder: Path, name: str, settings: argparse.Namespace, **changes: Any) -> Path:
    """A sweep over the scenes job, one worker a trial."""
    base = {
        "extends": str(JOB),
        "storage": str(folder / "runs"),
        "model": {"image_size": 96, "patch_size": 12, "window_size": 8},
        "data": {
            "path": str(folder / "scenes"),
            "scene_size": 96,
            "train_scenes": 1024,
            "reader_tasks": 0,
        },
        "training": {"max_steps": settings.steps, "global_batch": 4, "log_every": 1},
        "schedule": {"warmup_steps": min(20, settings.first_rung)},
        "scale": {"workers": 1, "device": "cpu"},
        "checkpoint": {"every_steps": settings.steps},
        "evaluation": {
            "every_steps": settings.first_rung,
            "images": settings.images,
            "final_images": 0,
            "page": False,
        },
        "tracking": {"tracker": "none"},
    }
    tree = {
        "name": name,
        "base": base,
        "space": SPACE,
        "objective": {"metric": "val/box_iou", "mode": "max"},
        "search": {"type": "grid"},
        "at_once": settings.at_once,
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def steps_of(sweep: SweepDirectory, trials: Sequence[TrialRecord]) -> int:
    """Optimizer steps that the trials made."""
    runs = [sweep.run(each.run) for each in trials]
    return sum(max(record.step for record in read_metrics(run.metrics)) for run in runs)


def whole_and_halved(
    folder: Path, settings: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """The grid to its end, and by ASHA."""
    asha = {"type": "asha", "grace_steps": settings.first_rung, "reduction": 4}
    results: dict[str, Any] = {}
    sweeps = {}
    for name, scheduler in (("asha", asha), ("grid", {"type": "none"})):
        began = time.monotonic()
        path = spec(folder, name, settings, scheduler=scheduler)
        sweeps[name] = start_sweep(path, console=console)
        trials = newest_records(sweeps[name].trials)
        results[name] = {
            "trials": len(trials),
            "steps": steps_of(sweeps[name], trials),
            "minutes": round((time.monotonic() - began) / 60, 1),
        }
    return results | compared(*(newest_records(sweeps[name].trials) for name in ("grid", "asha")))


def compared(grid: Sequence[TrialRecord], asha: Sequence[TrialRecord]) -> dict[str, Any]:
    """How ASHA's choice ends where all trials end."""
    ends = {json.dumps(each.values): each.objective or 0.0 for each in grid}
    best = max(ends.values())
    chosen = max(asha, key=lambda each: each.objective or 0.0)
    return {
        "best_of_grid": best,
        "chosen_by_asha": ends[json.dumps(chosen.values)],
        "values": chosen.values,
        "below_best": round(1 - ends[json.dumps(chosen.values)] / best, 4),
    }


def overhead(folder: Path, settings: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Seconds of a trial in a sweep, and of a bare run of the same job."""
    short = argparse.Namespace(**{**vars(settings), "steps": 12, "first_rung": 6, "at_once": 1})
    space = {"seed": {"grid": list(range(settings.repeats + 1))}}
    path = spec(folder, "overhead", short, space=space)
    began = time.monotonic()
    sweep = start_sweep(path, console=console)
    ends = [each.time for each in newest_records(sweep.trials)]
    whole = time.monotonic() - began
    config = sweep.read_config()
    bare = []
    for seed in range(settings.repeats):
        began = time.monotonic()
        job = trial_job(config, {"seed": seed})
        train(job, create_run(job, f"bare-{seed}"), console)
        bare.append(time.monotonic() - began)
    gaps = _gaps(ends)
    return {
        "trial_seconds": round(statistics.median(gaps), 1),
        "bare_seconds": round(statistics.median(bare), 1),
        "overhead_seconds": round(statistics.median(gaps) - statistics.median(bare), 1),
        "sweep_seconds": round(whole, 1),
    }


def _gaps(times: Sequence[str]) -> list[float]:
    """Seconds from the end of each trial to that of the next."""
    from datetime import datetime
    from itertools import pairwise

    ends = sorted(datetime.fromisoformat(each).timestamp() for each in times)
    return [after - before for before, after in pairwise(ends)]


def print_table(console: Console, results: dict[str, Any]) -> None:
    """The figures for people."""
    table = Table("", "trials", "steps", "minutes", title="The same grid, whole and by ASHA")
    for name in ("grid", "asha"):
        if name in results:
            each = results[name]
            table.add_row(name, *(f"{each[key]:,}" for key in ("trials", "steps", "minutes")))
    console.print(table)
    if "below_best" in results:
        share = results["asha"]["steps"] / results["grid"]["steps"]
        console.print(
            f"ASHA makes {share:.1%} of the steps; what it ranks first ends"
            f" {results['below_best']:.1%} below the grid's best, {results['best_of_grid']:.3f}"
        )
    console.print(
        f"a trial takes {results['trial_seconds']} s, a bare run {results['bare_seconds']} s"
    )


def main() -> None:
    """Run the sweeps, one after the other, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=720)
    parser.add_argument("--first-rung", type=int, default=60)
    parser.add_argument("--images", type=int, default=32, help="held-out ones (default: 32)")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=4, help="of the overhead (default: 4)")
    parser.add_argument("--skip-grid", action="store_true", help="measure the overhead alone")
    settings = parser.parse_args()
    console = Console(width=120)
    with one_ray(settings.at_once) as folder:
        results = {} if settings.skip_grid else whole_and_halved(folder, settings, console)
        results |= overhead(folder, settings, console)
    print_table(console, results)
    print(json.dumps({**results, "settings": vars(settings), **machine()}))


if __name__ == "__main__":
    main()
