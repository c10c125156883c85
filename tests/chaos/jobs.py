"""The jobs that are broken: small, with every part that a large one has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tap_platform.config.load import merge
from tests.tiny_model import MODEL

STEPS = 28
EVERY = 4
"""Steps between checkpoints."""

NO_DROPOUT = {"model": {"drop_path": 0.0, "decoder_dropout": 0.0}}
"""Each worker draws its own, so only runs without it agree over numbers of workers."""


def job_tree(folder: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A job of two workers on two hosts; changes are laid over it."""
    tree: dict[str, Any] = {
        "name": name,
        "project": "chaos",
        "storage": str(folder / "runs"),
        "model": MODEL,
        "data": {
            "source": "scenes",
            "path": str(folder / "scenes"),
            "train_scenes": 64,
            "val_scenes": 8,
            "scene_size": 96,
            "partitions": 4,
            "regions_per_image": 4,
            "shuffle_window": 8,
            "jitter": {"minimum": 0.8, "maximum": 1.25},
        },
        "optimizer": {"gradient_clip": 1.0},
        "training": {"max_steps": STEPS, "global_batch": 4, "log_every": 1},
        "scale": {"device": "cpu", "workers": 2, "cpus_per_worker": 2, "max_failures": 3},
        "checkpoint": {"every_steps": EVERY},
        "evaluation": {"final_images": 0, "page": False},
        "tracking": {"tracker": "none"},
    }
    return merge(tree, changes)


def write_job(folder: Path, name: str, changes: dict[str, Any]) -> Path:
    """The job as a file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job_tree(folder, name, changes)))
    return path
