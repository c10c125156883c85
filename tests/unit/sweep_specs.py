"""A sweep of a small job, as tests lay keys over it."""

import yaml
from tiny_model import MODEL

from tap_platform.config.load import merge
from tap_platform.config.sweep import load_sweep, validate_sweep

SPACE = {"optimizer.lr": {"log_uniform": [1e-4, 1e-1]}}


def tree(folder, space=None, **changes):
    base = {
        "name": "small",
        "storage": str(folder / "runs"),
        "model": MODEL,
        "data": {"source": "shards", "path": str(folder / "data"), "partitions": 4},
        "training": {"max_steps": 9, "global_batch": 4, "log_every": 1},
        "scale": {"device": "cpu"},
        "tracking": {"tracker": "none"},
    }
    spec = {
        "name": "small",
        "base": base,
        "space": SPACE if space is None else space,
        "objective": {"metric": "train/loss", "mode": "min"},
        "budget": {"trials": 4},
        "folder": str(folder),
    }
    return merge(spec, changes)


def sweep(folder, space=None, **changes):
    return validate_sweep(tree(folder, space, **changes), "small.yaml")


def spec_file(folder, space=None, **changes):
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(tree(folder, space, **changes)))
    return path


__all__ = ["load_sweep", "spec_file", "sweep", "tree"]
