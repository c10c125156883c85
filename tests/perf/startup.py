"""From `tap train` to the first record of a real run: how long each part takes, and its imports.

    python tests/perf/startup.py [--rounds 3] [--workers 1] [--against TREE] [key=value ...]

Every round is a whole `tap train` of two steps on made scenes, in a process of its own. Its
processes tell when they first reach and leave the functions that divide a start
(`startup_probe/sitecustomize.py`), by the clock of the machine. `--against` measures another tree
of this project in turns with this one. Shown are medians; the imports are CPU seconds of the
modules of each package themselves, of one run. The last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from machine import machine
from rich.console import Console
from rich.table import Table
from side_by_side import progress, take_turns

HERE = Path(__file__).parent
TREE = HERE.parents[1]
PHASES = {
    "main begins": "driver: Python, command line",
    "start_run begins": "driver: launcher imported",
    "create_run begins": "driver: job read",
    "train begins": "driver: data checked, run made",
    "start_ray begins": "driver: Ray imported",
    "start_ray ends": "driver: Ray started",
    "DataParallelTrainer.fit begins": "driver: Ray Train imported",
    "TrainController.__init__ begins": "Ray: controller's process up",
    "RayTrainWorker.__init__ begins": "Ray: worker's process up",
    "RayTrainWorker.init_train_context begins": "Ray: workers ranked",
    "_setup_torch_process_group begins": "Ray: torch imported in the worker",
    "run_worker begins": "worker: process group joined",
    "build_streams ends": "worker: reading begins",
    "train_worker begins": "worker: training imported",
    "starting_recipe ends": "worker: model built",
    "build_trainer ends": "worker: trainer built",
    "Trainer.fit begins": "worker: fitting begins",
    "TapPretrain.training_step begins": "worker: optimizer, first batch",
    "MetricsWriter.write begins": "worker: first step",
}
ASIDE = {
    "collate_group ends": "first batch decoded, beside the above",
}
IMPORTS = {
    "driver": "imports before DataParallelTrainer.fit",
    "worker": "imports before MetricsWriter.write",
}
JOB = """
name: startup
model: {preset: tiny, image_size: 128, window_size: 4}
data: {source: scenes, path: SCENES, train_scenes: 32, val_scenes: 8, scene_size: 128,
       partitions: 4, regions_per_image: 4}
training: {max_steps: 2, global_batch: 4, log_every: 1}
scale: {device: cpu}
evaluation: {final_images: 0, page: false}
storage: RUNS
"""


def one_start(tree: Path, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Seconds from the start of `tap train` to every mark, and the imports of both processes."""
    with tempfile.TemporaryDirectory(dir=folder) as marks:
        paths = [HERE / "startup_probe", tree, os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
            "TAP_STARTUP_MARKS": marks,
        }
        command = ["-c", "from tap_platform.cli import main; main()", "train"]
        began = time.time()
        done = subprocess.run(
            [sys.executable, *command, str(folder / "startup.yaml"), *overrides],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"tap train failed:\n{done.stdout}\n{done.stderr}")
        lines = [line for file in Path(marks).iterdir() for line in file.read_text().splitlines()]
    told = sorted(map(json.loads, lines), key=lambda mark: mark["time"])
    first = {mark["name"]: mark for mark in reversed(told)}
    return {
        "seconds": {name: first[name]["time"] - began for name in PHASES | ASIDE},
        "imports": {who: first[name]["packages"] for who, name in IMPORTS.items()},
    }


def summarize(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the length of every phase, and what the last start imported."""
    lengths: dict[str, list[float]] = {}
    for start in starts:
        at = 0.0
        for name, title in PHASES.items():
            lengths.setdefault(title, []).append(start["seconds"][name] - at)
            at = start["seconds"][name]
        lengths.setdefault("to the first record", []).append(at)
        for name, title in ASIDE.items():
            lengths.setdefault(title, []).append(start["seconds"][name])
    imports = {
        who: {name: round(s, 2) for name, s in sorted(packages.items(), key=lambda kv: -kv[1])}
        for who, packages in starts[-1]["imports"].items()
    }
    return {
        "seconds": {title: round(statistics.median(each), 2) for title, each in lengths.items()},
        "to_first_record": [round(each, 2) for each in lengths["to the first record"]],
        "imports_in_all": {who: round(sum(each.values()), 2) for who, each in imports.items()},
        "imports": {
            who: {n: s for n, s in each.items() if s >= 0.05} for who, each in imports.items()
        },
    }


def print_tables(console: Console, figures: dict[str, dict[str, Any]]) -> None:
    """Phases and imports, one column a tree."""
    table = Table(title="A start, seconds (medians)")
    table.add_column("until")
    for name in figures:
        table.add_column(name, justify="right")
    for title in next(iter(figures.values()))["seconds"]:
        table.add_row(title, *(f"{each['seconds'][title]:.2f}" for each in figures.values()))
    console.print(table)
    for who in IMPORTS:
        table = Table(title=f"Imports of the {who}, CPU seconds")
        table.add_column("package")
        for name in figures:
            table.add_column(name, justify="right")
        packages = dict.fromkeys(p for each in figures.values() for p in each["imports"][who])
        for package in packages:
            cells = (each["imports"][who].get(package, 0.0) for each in figures.values())
            table.add_row(package, *(f"{cell:.2f}" for cell in cells))
        table.add_section()
        table.add_row("all", *(f"{each['imports_in_all'][who]:.2f}" for each in figures.values()))
        console.print(table)


def main() -> None:
    """Start runs in turn, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the job")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each tree (default: 3)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--against", type=Path, help="another tree of this project")
    settings = parser.parse_args()
    console = Console(width=100)
    trees = {"here": TREE, **({"there": settings.against.absolute()} if settings.against else {})}
    with tempfile.TemporaryDirectory() as temporary, progress(console) as bar:
        folder = Path(temporary)
        job = JOB.replace("SCENES", f"{folder}/scenes").replace("RUNS", f"{folder}/runs")
        (folder / "startup.yaml").write_text(job)
        overrides = [f"scale.workers={settings.workers}", *settings.overrides]
        ways = {name: partial(one_start, tree, folder, overrides) for name, tree in trees.items()}
        take_turns(ways, 1, bar, "warming up")
        starts = take_turns(ways, settings.rounds, bar, "round")
    figures = {name: summarize(each) for name, each in starts.items()}
    print_tables(console, figures)
    print(json.dumps({**figures, "rounds": settings.rounds, **machine()}))


if __name__ == "__main__":
    main()
