"""The memory of one worker, from what it holds and what its step takes."""

from __future__ import annotations

from tap_platform.config.job import JobConfig
from tap_platform.estimate.figures import Memory
from tap_platform.estimate.moments import moments
from tap_platform.estimate.state import held_state
from tap_platform.estimate.traced_step import TracedStep

CUDA_BYTES = 1_500_000_000
"""CUDA's context, the kernels of torch, and the channels and workspaces of NCCL and cuBLAS."""
FRAGMENTS = 0.05
"""Share of what torch allocates that lies idle between blocks."""
PROCESS_BYTES = 1_500_000_000
"""Python, torch, Ray and Lightning in a worker on CPUs."""


def memory_of(
    job: JobConfig, traced: TracedStep, on_gpu: bool, available: int | None = None
) -> Memory:
    """What one worker takes when it takes most.

    Args:
        job: the job.
        traced: what its micro-batch takes.
        on_gpu: whether it trains on GPUs.
        available: bytes that there are for one worker, if known.
    """
    state = held_state(job)
    highest = max(moments(job, traced, on_gpu), key=lambda each: sum(each[1:]))
    memory = Memory(
        weights=state.weights,
        gradients=state.gradients + highest.gradients,
        optimizer=state.optimizer,
        average=state.average,
        activations=highest.activations,
        buffers=highest.buffers,
        batches=2 * traced.batch + traced.buffers,
        allowance=PROCESS_BYTES,
        highest=highest.name,
        available=available,
        host=state.host,
        on_gpu=on_gpu,
    )
    if not on_gpu:
        return memory
    return memory.model_copy(update={"allowance": CUDA_BYTES + int(FRAGMENTS * memory.allocated)})
