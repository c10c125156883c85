"""The moments of a step when memory may be at its highest, under each strategy."""

from __future__ import annotations

from typing import NamedTuple

from tap_platform.config.job import JobConfig
from tap_platform.estimate.state import BUCKET, FLOAT, held_state, model_size, stepped_bytes
from tap_platform.estimate.traced_step import TracedStep

REUSED_SOON = 500_000_000
"""Weights that ZeRO 3 has gathered when the forward pass ends, at the most: it keeps those that are
used again before 10^9 others are."""


class Moment(NamedTuple):
    """Bytes that a worker holds at one moment beside its state."""

    name: str
    gradients: int
    """Beyond those that are always there."""
    activations: int
    """With all else that operations hold for a while."""
    buffers: int
    """What weights are gathered in, what gradients travel in, what the optimizer works in."""


def moments(job: JobConfig, traced: TracedStep, on_gpu: bool) -> list[Moment]:
    """The moments of a job's step.

    Args:
        job: the job.
        traced: what its micro-batch takes.
        on_gpu: whether it trains on GPUs.
    """
    backward = _backward(job, traced)
    return [backward, *_exchange(job, traced), _update(job, traced, on_gpu)]


def _backward(job: JobConfig, traced: TracedStep) -> Moment:
    """The end of the forward pass, or wherever later both passes hold most."""
    name, strategy = "in the backward pass", job.scale.strategy
    trained, summed = FLOAT * model_size(job).trained, job.accumulation > 1
    gathered = _gathered(job)
    if strategy in ("zero_2", "zero_3", "fsdp"):
        # A share of the sum over a step's earlier micro-batches; ZeRO 3's is always there.
        earlier = stepped_bytes(job) if summed and strategy != "zero_3" else 0
        bucket = FLOAT * BUCKET if strategy != "fsdp" else 0
        return Moment(name, earlier, traced.activations, bucket + gathered)
    bucket = FLOAT * BUCKET if strategy == "zero_1" else 0
    if summed:
        return Moment(name, trained, traced.activations, bucket)
    if strategy == "ddp" and job.scale.most_workers > 1:
        return Moment(name, 0, traced.activations, 0)
    return Moment(name, traced.gradients, traced.beside_gradients, bucket)


def _gathered(job: JobConfig) -> int:
    """Weights that come together for the passes, and FSDP's gradients before they are shared out.

    FSDP holds what is in no block all the time, and of the blocks the one at work and the next.
    """
    size = model_size(job)
    if job.scale.strategy == "zero_3":
        return FLOAT * min(size.whole, REUSED_SOON)
    if job.scale.strategy == "fsdp":
        root = size.whole - size.blocks
        return FLOAT * (root + 4 * size.block)
    return 0


def _exchange(job: JobConfig, traced: TracedStep) -> list[Moment]:
    """DeepSpeed's full bucket, and the copy of it that travels.

    ZeRO 1 sends when the backward pass has ended; the others whenever a bucket is full, when the
    passes still hold what the rest of the weights needs.
    """
    strategy, size = job.scale.strategy, model_size(job)
    if not strategy.startswith("zero"):
        return []
    copy = FLOAT * min(size.trained, BUCKET)
    left = max(0, size.trained - BUCKET)
    name, buffers = "when gradients are exchanged", FLOAT * BUCKET + copy + _gathered(job)
    if strategy == "zero_1":
        return [Moment(name, FLOAT * left + stepped_bytes(job), 0, buffers)]
    return [Moment(name, 0, traced.activations * left // size.trained, buffers)]


def _update(job: JobConfig, traced: TracedStep, on_gpu: bool) -> Moment:
    """AdamW's own intermediate results: of all weights at once on GPUs, of each in turn on CPUs."""
    stepped, strategy = stepped_bytes(job), job.scale.strategy
    gradients = stepped if held_state(job).gradients == 0 and job.scale.offload == "none" else 0
    in_turn = traced.largest_parameter if strategy in ("ddp", "fsdp") else stepped
    work = 0 if job.scale.offload != "none" else stepped if on_gpu else 2 * in_turn
    bucket = FLOAT * BUCKET if strategy == "zero_3" else 0
    return Moment("when weights are updated", gradients, 0, work + bucket)
