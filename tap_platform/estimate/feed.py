"""What storage and CPUs must bring to the workers; the costs of a sample are docs/feeding.md's."""

from __future__ import annotations

from tap_platform.config.job import JobConfig
from tap_platform.estimate.figures import Feed
from tap_platform.estimate.nodes import NodeShare
from tap_platform.launch.data_sets import DataSet, data_sets

SA1B_BYTES = 640_000
"""Of an SA-1B-like sample: a JPEG of 1500 x 2250 pixels."""
JPEG_SECONDS = 10.9e-3
"""CPU time to decode and resize its picture."""
REGION_SECONDS = 3.2e-3 / 64
"""CPU time for the mask of one region at a frame of 1024 pixels, annotation and prior with it."""
STREAM_SECONDS = 2.3e-3
"""CPU time to bring a sample through Ray Data."""


def feed_of(job: JobConfig, share: NodeShare, step_seconds: float | None) -> Feed:
    """What feeding a job takes at its pace.

    Args:
        job: the job.
        share: its nodes.
        step_seconds: of one step, if that is known.
    """
    size, basis = image_bytes(job)
    cost = cpu_seconds(job, size)
    rate = job.training.global_batch / step_seconds if step_seconds else None
    workers = job.scale.most_workers
    return Feed(
        bytes_per_image=size,
        bytes_basis=basis,
        cpu_seconds_per_image=cost,
        images_per_second=rate,
        bytes_per_second=None if rate is None else rate * size,
        cpus_needed=None if rate is None else rate * cost,
        cpus_there=max(0, share.pods_most * share.cpus_per_pod - _busy(job, share) * workers),
    )


def image_bytes(job: JobConfig) -> tuple[float, str]:
    """Bytes of one training sample in its shard, and what that rests on."""
    known = [(_sample_bytes(each), each.weight) for each in data_sets(job.data)]
    sizes = [(size, weight) for size, weight in known if size is not None]
    if len(sizes) < len(known):
        return SA1B_BYTES, "assumed, as of SA-1B: the data cannot be read from here"
    whole = sum(weight for _, weight in sizes)
    return sum(size * weight for size, weight in sizes) / whole, "by the index"


def cpu_seconds(job: JobConfig, size: float) -> float:
    """CPU seconds of one sample: its picture by bytes, its masks by number and resolution."""
    cells = (job.model.mask_size / 256) ** 2
    masks = REGION_SECONDS * job.data.regions_per_image * cells
    stream = STREAM_SECONDS if job.data.reader_tasks else 0.0
    return JPEG_SECONDS * size / SA1B_BYTES + masks + stream


def _sample_bytes(data_set: DataSet) -> float | None:
    try:
        index = data_set.index("train")
        parts = [index, *([index.sidecar] if index.sidecar else [])]
        return sum(float(each.sizes.sum()) for each in parts) / len(index) if len(index) else None
    except ValueError:
        return None


def _busy(job: JobConfig, share: NodeShare) -> int:
    """CPUs that a worker computes on: on GPUs its own thread's, else all that it has."""
    return 1 if share.gpus_per_pod else job.scale.cpus_per_worker
