"""Whole runs with one more callback in every worker, by which scripts measure the product's loop.

`train_with` starts an ordinary run: Ray Train, Lightning, every default callback and the data
stream. The callback comes last of all, so that what the others do at a step lies between two calls
of it.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console

HERE = Path(__file__).parent
RESULT = "measured.json"


@contextmanager
def one_ray(cpus: int) -> Iterator[Path]:
    """A Ray session for several runs, whose workers find these scripts, and a folder for them."""
    from tap_platform.launch.ray_session import start_ray

    paths = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    import ray

    with tempfile.TemporaryDirectory() as folder:
        start_ray(cpus)
        try:
            yield Path(folder)
        finally:
            ray.shutdown()


def scenes_job(folder: Path, name: str, **sections: Any) -> Any:
    """A job on made scenes that only trains; sections are laid over it."""
    from tap_platform.config.load import anchored, merge, validate_job

    tree = {
        "name": name,
        "storage": f"{folder}/runs",
        "model": {"preset": "tiny", "image_size": 128, "window_size": 4},
        "data": {
            "source": "scenes",
            "path": f"{folder}/scenes-{name}",
            "train_scenes": 128,
            "val_scenes": 4,
            "scene_size": sections.get("model", {}).get("image_size", 128),
            "partitions": 4,
            "regions_per_image": 8,
        },
        "training": {"max_steps": 10, "global_batch": 4},
        "scale": {"device": "cpu"},
        "evaluation": {"final_images": 0, "page": False},
        "tracking": {"tracker": "none"},
    }
    return anchored(validate_job(merge(tree, sections), where=name))


def train_with(job: Any, callback: str, **options: Any) -> dict[str, Any]:
    """Train a job with one more callback.

    Args:
        job: the job.
        callback: `module:Class` of these scripts. It is made with `path=` where the first worker
            leaves its measures as JSON, and the options.
        **options: see `callback`.

    Returns:
        What the first worker left.
    """
    from tap_platform.launch.train import create_run, train

    console = Console(quiet=True)
    run = create_run(job, console=console)
    path = run.path / RESULT
    work = partial(run_worker_with, callback=callback, options={**options, "path": str(path)})
    with patch("tap_platform.launch.workers.run_worker", work):
        train(job, run, console)
    return json.loads(path.read_text())


def run_worker_with(config: dict[str, Any], *, callback: str, options: dict[str, Any]) -> None:
    """What a worker does: what it always does, with the callback as the trainer's last one."""
    from tap_platform.launch.worker_entry import run_worker
    from tap_platform.training import worker

    module, _, name = callback.partition(":")
    build_trainer = worker.build_trainer

    def build(*args: Any, **kwargs: Any) -> Any:
        trainer = build_trainer(*args, **kwargs)
        trainer.callbacks.append(getattr(importlib.import_module(module), name)(**options))
        return trainer

    with patch.object(worker, "build_trainer", build):
        run_worker(config)
