"""What a person should know before a job is submitted."""

from __future__ import annotations

from tap_platform.config.job import JobConfig
from tap_platform.estimate.figures import Feed, Memory
from tap_platform.estimate.memory import PROCESS_BYTES
from tap_platform.estimate.nodes import NodeShare
from tap_platform.estimate.sizes import as_bytes

WITHOUT_BF16 = ("V100", "T4")
FULL = 0.9


def concerns_of(job: JobConfig, share: NodeShare, memory: Memory, feed: Feed) -> list[str]:
    """Sentences, the gravest first."""
    found = (
        _too_large(memory),
        _nearly_full(memory),
        _host_memory(share, memory),
        _too_few_cpus(feed),
        _idle_gpus(share),
        _no_bf16(job, share),
    )
    return [each for each in found if each]


def _too_large(memory: Memory) -> str | None:
    if memory.fits:
        return None
    assert memory.available is not None
    place = "GPU" if memory.on_gpu else "worker"
    return (
        f"it does not fit: {as_bytes(memory.total)} are wanted of {as_bytes(memory.available)} that"
        f" a {place} has"
    )


def _nearly_full(memory: Memory) -> str | None:
    if not memory.fits or not memory.available or memory.total < FULL * memory.available:
        return None
    return (
        f"memory is nearly full ({memory.total / memory.available:.0%}): an estimate within 15 %"
        " of the truth does not tell whether it fits"
    )


def _host_memory(share: NodeShare, memory: Memory) -> str | None:
    """Offloaded state and the workers' own processes, against the memory of a pod."""
    if not memory.on_gpu:
        return None
    wanted = share.workers_per_pod * (memory.host + PROCESS_BYTES)
    if wanted <= share.memory_bytes_per_pod:
        return None
    return (
        f"host memory does not suffice: the workers of a pod take {as_bytes(wanted)}, it has"
        f" {as_bytes(share.memory_bytes_per_pod)}"
    )


def _too_few_cpus(feed: Feed) -> str | None:
    if feed.cpus_needed is None or feed.cpus_needed <= feed.cpus_there:
        return None
    share = feed.cpus_there / feed.cpus_needed
    return (
        f"too few CPUs feed it: {feed.cpus_needed:,.0f} are wanted, {feed.cpus_there:,} are there,"
        f" so that steps run at {share:.0%} of their pace: take nodes with more CPUs, or fewer"
        " data.regions_per_image"
    )


def _idle_gpus(share: NodeShare) -> str | None:
    gpu = share.group.gpu
    if gpu is None or not share.gpus_per_pod:
        return None
    if share.pods_most < 2 or share.workers_per_pod == gpu.count:
        return None
    return (
        f"{share.workers_per_pod} of the {gpu.count} GPUs of a node are taken: a multiple of"
        f" {gpu.count} workers, or fewer CPUs a worker, takes all of them"
    )


def _no_bf16(job: JobConfig, share: NodeShare) -> str | None:
    gpu = share.group.gpu
    if gpu is None or gpu.type not in WITHOUT_BF16 or job.training.precision != "bf16":
        return None
    return f"a {gpu.type} has no bf16 arithmetic: take training.precision=fp16"
