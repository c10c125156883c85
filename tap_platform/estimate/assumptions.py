"""What an estimate takes for granted."""

from __future__ import annotations

from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TEXT_DECODER
from tap_platform.estimate.figures import Memory
from tap_platform.estimate.memory import CUDA_BYTES, FRAGMENTS
from tap_platform.estimate.nodes import NodeShare
from tap_platform.estimate.sizes import as_bytes


def assumptions_of(job: JobConfig, share: NodeShare, memory: Memory) -> list[str]:
    """Sentences for people."""
    found = [f"every image has {job.data.regions_per_image} regions (data.regions_per_image)"]
    if TEXT_DECODER in job.recipe.trained_parts:
        found.append(f"every caption is as long as it may be: {job.model.text_length - 1} pieces")
    if memory.on_gpu:
        found.append(
            f"beside what torch allocates a GPU holds {as_bytes(CUDA_BYTES)} of CUDA and NCCL, and"
            f" {FRAGMENTS:.0%} lie idle between blocks"
        )
    if job.training.compile:
        found.append("training.compile changes memory and time; both are told without it")
    if memory.on_gpu:
        found.append("mfu is the profile's word: a measured one makes hours and cost true")
    if share.pods_most * share.workers_per_pod > 1:
        found.append("no communication hides behind computation: steps may be faster")
    if job.scale.least_workers < job.scale.most_workers:
        workers = share.workers_of(job)
        short = f", for more find no room of {job.scale.most_workers}"
        found.append(
            f"the run has {workers} workers all the time"
            + (short if workers < job.scale.most_workers else "")
        )
    found.append("hours are those of steps: start, held-out looks and evaluation come on top")
    return found
