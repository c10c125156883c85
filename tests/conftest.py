"""One Ray session and one small data set for all integration tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_model import MODEL

from tap_platform.config.job import JobConfig
from tap_platform.config.load import anchored, merge, validate_job


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """What is copied from URLs does not stay on the machine."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TAP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def ray_cluster():
    """Ray with places for two workers and their readers, twice; it leaves nothing."""
    import psutil
    import ray

    from tap_platform.launch.ray_session import start_ray

    before = set(psutil.Process().children())
    with pytest.MonkeyPatch.context() as patch:  # actors import what tests bring
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "integration"), prepend=os.pathsep)
        start_ray(cpus=6)
    roots = set(psutil.Process().children()) - before
    yield
    # Other tests start processes too, such as multiprocessing's tracker; they are not Ray's.
    processes = roots.union(*(root.children(recursive=True) for root in roots))
    ray.shutdown()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive, f"Ray's processes outlive the tests: {alive}"


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("platform")


@pytest.fixture(scope="session")
def make_job(shared_folder):
    """A job on small scenes; keyword sections are laid over it."""

    def make(name: str, **changes: object) -> JobConfig:
        tree = {
            "name": name,
            "storage": str(shared_folder / "runs"),
            "model": MODEL,
            "data": {
                "source": "scenes",
                "path": str(shared_folder / "scenes"),
                "train_scenes": 32,
                "val_scenes": 8,
                "scene_size": 96,
                "partitions": 4,
                "regions_per_image": 4,
                "shuffle_window": 8,
                "jitter": {"minimum": 0.8, "maximum": 1.25},
            },
            "optimizer": {"gradient_clip": 1.0},
            "training": {"max_steps": 12, "global_batch": 4, "log_every": 1},
            "scale": {"device": "cpu"},
            "evaluation": {"final_images": 0},
            "tracking": {"tracker": "none"},
        }
        return anchored(validate_job(merge(tree, changes), where=name))

    return make
