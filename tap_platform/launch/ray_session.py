"""Ray, started with what a job needs and nothing else."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from tap_platform.config.job import JobConfig
from tap_platform.estimate.nodes import cpus_of_worker
from tap_platform.launch.new_nodes import gpus_of_worker, is_autoscaled, wait_for_nodes


def cpus_needed(job: JobConfig, workers: int | None = None) -> int:
    """CPUs that the workers and their data tasks hold at once; what coordinates them holds none.

    A data task holds one, whether it only reads (`data.decode=consumer`) or decodes too (`ray`);
    threads that decode in a worker share the worker's own.

    Args:
        job: the job.
        workers: how many; by default the most that the job may have.
    """
    return (workers or job.scale.most_workers) * cpus_of_worker(job)


@contextmanager
def ray_session(job: JobConfig, console: Console | None = None) -> Iterator[None]:
    """Join the Ray that this process uses, or the cluster of RAY_ADDRESS, or run one of our own.

    The CPUs of our own Ray are places in a queue, not cores: a laptop with two cores still runs
    two workers and their readers, only slower. Of a cluster, the nodes must see the run directory;
    where it has an autoscaler, the nodes of the fewest workers are asked for and waited for.

    Args:
        job: what is to find room.
        console: where to tell what is waited for; the terminal by default.

    Raises:
        ValueError: if a Ray that exists cannot be joined, has fewer CPUs than the job holds, or
            none of its nodes has enough for a worker: data tasks, or workers, would wait for ever.
            Nothing has been scheduled then.
    """
    import ray

    if isinstance(job.scale.workers, tuple):
        # How long a start waits for nodes that were counted on and are gone; Ray's own is 60.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    if ours := not ray.is_initialized():
        start_ray(cpus_needed(job))
    try:
        if is_autoscaled():
            wait_for_nodes(
                job, lambda: _check_nodes(job, gpus_of_worker(job)), console or Console()
            )
        _check_nodes(job)
        yield
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def joined_ray(cpus: int) -> Iterator[None]:
    """Join the Ray that this process uses, or the cluster of RAY_ADDRESS, or run one of our own.

    Args:
        cpus: places in the queue of one of our own.

    Raises:
        ValueError: if the cluster of RAY_ADDRESS cannot be joined.
    """
    import ray
    import ray.data  # it sets its loggers when it is imported; `start_ray` quietens them after

    if ray.is_initialized():
        yield
        return
    start_ray(cpus)
    try:
        yield
    finally:
        ray.shutdown()


def start_ray(cpus: int) -> None:
    """Join the cluster of RAY_ADDRESS, or start an embedded Ray without dashboard or usage reports.

    Raises:
        ValueError: if the cluster cannot be joined.
    """
    import ray

    _quieten()
    # How late the end of the workers, and the death of one, is noticed; Ray's own is two seconds.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    # How late a worker hears that its node is being drained; Ray's own is five, of thirty or so.
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    # What a worker prints would stand in its log twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # Ray's processes take seconds to come up; Ray Train needs these two, which need no Ray.
    imports = threading.Thread(target=_import_torch_and_pandas, name="imports")
    imports.start()
    if address := os.environ.get("RAY_ADDRESS"):
        _join_cluster(address)
    else:
        ray.init(
            "local",  # without it, Ray joins a cluster that somebody started on this computer
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_object_store_bytes(),
        )
    imports.join()


def _join_cluster(address: str) -> None:
    """Be a driver of a cluster, on one of its nodes."""
    import ray

    if "://" in address:
        raise ValueError(
            f"RAY_ADDRESS {address} is one for clients, and a driver runs on a node of its cluster:"
            " start it there, such as with `ray job submit`, with RAY_ADDRESS unset, auto or"
            " HOST:PORT"
        )
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ValueError(
            f"cannot join the Ray cluster of RAY_ADDRESS {address} ({error}): is it up, is a node"
            " of it on this host, and is RAY_AUTH_MODE the same here as on its nodes?"
        ) from error


def _import_torch_and_pandas() -> None:
    import pandas  # noqa: F401
    import torch  # noqa: F401


def _object_store_bytes() -> int:
    """A quarter of the memory, at most 2 GB: the stream keeps only what is read ahead."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(memory // 4, 2_000_000_000)


def _quieten() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _check_nodes(job: JobConfig, gpus_per_worker: int = 0) -> None:
    """Refuse a job that finds no room on the nodes which are alive.

    Raises:
        ValueError: with what is there, and what is needed.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    check_room(job, [int(resources.get("CPU", 0)) for resources in alive])
    gpus, needed = sum(int(each.get("GPU", 0)) for each in alive), job.scale.least_workers
    if gpus < needed * gpus_per_worker:
        raise ValueError(f"the Ray cluster has {gpus} GPUs, {needed} workers take one each")


def check_room(job: JobConfig, nodes: Sequence[int]) -> None:
    """Refuse a job whose workers would leave its data tasks no CPU.

    Of an elastic run the fewest workers must find room; others may find it later.

    Args:
        job: the job.
        nodes: CPUs of each node.

    Raises:
        ValueError: with the arithmetic, if the nodes are too few or too small.
    """
    scale, data, workers = job.scale, job.data, job.scale.least_workers
    needed, there = cpus_needed(job, workers), sum(nodes)
    if needed > there:
        doing = "reading and decoding" if data.decode == "ray" else "reading"
        raise ValueError(
            f"the Ray cluster has {there} CPUs, the job holds {needed}: {workers} workers x"
            f" ({scale.cpus_per_worker} for training + {data.reader_tasks} for {doing}); lower"
            " scale.workers, scale.cpus_per_worker or data.reader_tasks"
        )
    fitting = sum(cpus // scale.cpus_per_worker for cpus in nodes)
    if fitting < workers:
        raise ValueError(
            f"{fitting} workers of {scale.cpus_per_worker} CPUs fit on the nodes of the Ray"
            f" cluster, which have {', '.join(map(str, sorted(nodes)))} CPUs; the job asks for"
            f" {workers}: lower scale.workers or scale.cpus_per_worker"
        )
