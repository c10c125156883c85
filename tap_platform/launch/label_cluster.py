"""Where the models of `tap data label` run: in this process, or in Ray actors of their own.

Readers are Ray Data tasks with a CPU each, on any node, one shard a task: they read, decode, ask
the models and write. A model has two images at once where it has a GPU, so that one is drawn while
the masks of the other are encoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from datamodules.labels.masks import Segmenter
from tap_platform.launch.label_tasks import MaskServer, ModelHere, ModelsAway, ModelSpec

IMAGES_ON_A_GPU = 2


class Crew(NamedTuple):
    """Who labels."""

    workers: int = 0
    """Ray actors that hold the model, a GPU each where there are GPUs; 0 does all in this
    process."""
    readers: int = 2
    """Ray Data tasks that read and write shards, one CPU each."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto` for a GPU where there is one."""


@contextmanager
def session(crew: Crew) -> Iterator[str]:
    """Ray, if it is wanted, for the block; yields the kind of device that a model has.

    Raises:
        ValueError: if there is no such device, or the cluster is too small.
    """
    if not crew.workers:
        import torch

        with_gpu = crew.device != "cpu" and torch.cuda.is_available()
        if crew.device == "cuda" and not with_gpu:
            raise ValueError("this machine has no GPU: give --device cpu")
        yield "cuda" if with_gpu else "cpu"
        return
    import ray

    from tap_platform.launch.ray_session import joined_ray

    with joined_ray(crew.workers + crew.readers):
        resources = ray.cluster_resources()
        with_gpu = crew.device != "cpu" and resources.get("GPU", 0) > 0
        _check_room(resources, crew, with_gpu)
        yield "cuda" if with_gpu else "cpu"


def _check_room(resources: Mapping[str, float], crew: Crew, with_gpu: bool) -> None:
    """Refuse what would wait for ever.

    Raises:
        ValueError: if the cluster is too small.
    """
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if (with_gpu or crew.device == "cuda") and gpus < crew.workers:
        raise ValueError(f"the Ray cluster has {gpus} GPUs for {crew.workers} workers")
    if cpus < crew.workers + crew.readers:
        raise ValueError(
            f"the Ray cluster has {cpus} CPUs; {crew.workers} workers and {crew.readers} readers"
            " hold one each: lower --workers or --readers"
        )


@contextmanager
def models(spec: ModelSpec, workers: int) -> Iterator[Segmenter]:
    """Whoever draws the masks, for the block.

    Raises:
        ValueError: if a model cannot be loaded where it is to run.
    """
    if not workers:
        yield ModelHere(spec)
        return
    import ray

    servers = _start(spec.device, workers)
    try:
        threads = 0 if spec.device != "cpu" else max(1, (os.cpu_count() or 1) // workers)
        for error in ray.get([server.load.remote(spec, threads) for server in servers]):
            if error is not None:
                raise error
        yield ModelsAway(tuple(servers))
    finally:
        for server in servers:
            ray.kill(server)


def _start(device: str, workers: int) -> list[Any]:
    import ray

    on_gpu = device != "cpu"
    remote: Any = ray.remote
    actor = remote(
        num_cpus=1,
        num_gpus=1 if on_gpu else 0,
        max_concurrency=IMAGES_ON_A_GPU if on_gpu else 1,
    )(MaskServer)
    return [actor.remote() for _ in range(workers)]
