"""What a worker holds of the model, its gradients and its optimizer under each strategy.

All of it is arithmetic: no torch. Weights, gradients and AdamW's moments are float32 under every
precision, for bf16 and fp16 are autocast's. DeepSpeed gathers gradients in a bucket of a fixed
size, however small the model.
"""

from __future__ import annotations

from typing import NamedTuple

from tap_platform.config.job import JobConfig
from tap_platform.launch.parameters import count_parameters

FLOAT = 4
BUCKET = 200_000_000
"""Numbers in DeepSpeed's bucket, as Lightning sets it."""


class ModelSize(NamedTuple):
    """Numbers of parameters."""

    trained: int
    resting: int
    block: int
    """Of one transformer block of the image encoder."""
    blocks: int
    """Of all of these."""

    @property
    def whole(self) -> int:
        """All of them."""
        return self.trained + self.resting


class State(NamedTuple):
    """Bytes that one worker holds through a whole step: on its device, and in host memory."""

    weights: int
    gradients: int
    """Those that are there whatever the step is at."""
    optimizer: int
    """AdamW's moments, and the copies of weights that ZeRO steps."""
    average: int
    """The moving average of the weights."""
    host: int
    """What `scale.offload` moves out of the device's memory."""


def model_size(job: JobConfig) -> ModelSize:
    """The parameters of a job's model, by what becomes of them."""
    model, counts = job.model, count_parameters(job.model)
    trained = sum(counts[part] for part in job.recipe.trained_parts)
    dim, table = model.encoder_dim, model.encoder_heads * (2 * model.window_size - 1) ** 2
    block = 12 * dim**2 + 13 * dim + table
    return ModelSize(trained, sum(counts.values()) - trained, block, block * model.encoder_depth)


def stepped_bytes(job: JobConfig) -> int:
    """Bytes of the weights that one worker steps: its share, or all of them under `ddp`."""
    trained = FLOAT * model_size(job).trained
    return trained if job.scale.strategy == "ddp" else trained // job.scale.most_workers


def held_state(job: JobConfig) -> State:
    """What one worker of a job holds, at the most workers that there may be."""
    state = {
        "ddp": _replicated,
        "fsdp": _in_shares,
        "zero_1": _stepped_in_shares,
        "zero_2": _stepped_in_shares,
        "zero_3": _in_shares,
    }[job.scale.strategy](job)
    if not job.optimizer.ema_decay:
        return state
    share = FLOAT * model_size(job).trained // job.scale.most_workers
    return state._replace(average=share)


def _replicated(job: JobConfig) -> State:
    """`ddp`: with several workers its buckets, which gradients are views of, stay."""
    size = model_size(job)
    trained = FLOAT * size.trained
    buckets = trained if job.scale.most_workers > 1 else 0
    return State(FLOAT * size.whole, buckets, 2 * trained, 0, 0)


def _stepped_in_shares(job: JobConfig) -> State:
    """`zero_1`, `zero_2`: all weights, and of its share a copy with its moments.

    Gradients come and go with a step. Offloaded are the copy, a buffer as large, the moments and
    the share's gradients.
    """
    weights, share = FLOAT * model_size(job).whole, stepped_bytes(job)
    if job.scale.offload != "none":
        return State(weights, 0, 0, 0, host=5 * share)
    return State(weights, 0, 3 * share, 0, 0)


def _in_shares(job: JobConfig) -> State:
    """`zero_3`, `fsdp`: a share of everything; ZeRO steps copies of the weights.

    FSDP's gradients come and go with a step.
    """
    weights, share = FLOAT * model_size(job).whole // job.scale.most_workers, stepped_bytes(job)
    zero = job.scale.strategy == "zero_3"
    optimizer = (3 if zero else 2) * share
    if job.scale.offload == "none":
        return State(weights, share if zero else 0, optimizer, 0, 0)
    moved = optimizer + share
    if job.scale.offload == "optimizer":
        return State(weights, 0, 0, 0, host=moved)
    return State(0, 0, 0, 0, host=moved + weights)
