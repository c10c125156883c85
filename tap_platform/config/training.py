"""How long and how fast a job trains, and how it is looked at."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tap_platform.config.base import Section


class OptimizerConfig(Section):
    """AdamW."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate (paper: 1e-3)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moments (paper: 0.9, 0.999)."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay (paper: 0.1)."""
    decay_rule: Literal["v1.1", "v1.0"] = "v1.1"
    """`v1.1` decays everything but normalization layers, biases included, which keeps fp16 scores
    from overflowing; `v1.0` decays weights of more than one dimension only."""
    gradient_clip: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient; none by default, for the paper names none."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Keep an exponential moving average of the weights: after every step `average = ema_decay *
    average + (1 - ema_decay) * weights`. Evaluation and export use it then. None keeps none."""


class ScheduleConfig(Section):
    """Cosine decay after a linear warm-up. The paper gives the cosine; its ends are open."""

    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    warmup_factor: float = Field(0.001, ge=0, le=1)
    """Share of the peak rate that the warm-up starts from."""
    final_factor: float = Field(0.0, ge=0, le=1)
    """Share of the peak rate that is left at the last step."""


class TrainingConfig(Section):
    """One worker's loop."""

    max_steps: int = Field(gt=0)
    """Optimizer steps in all."""
    global_batch: int = Field(gt=0)
    """Images in one optimizer step, over all workers and micro-batches."""
    micro_batch: int | None = Field(None, gt=0)
    """Images in one forward pass of one worker, at the most; the rest is gradient accumulation. By
    default there is none with the most workers: about `global_batch / workers`. Batch norm looks at
    the forward passes of all workers at a time, so an elastic run whose curve shall not depend on
    the number of workers takes `global_batch / least workers`, if memory allows."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward; weights and optimizer stay fp32. fp16, with a loss scale,
    needs GPUs and `scale.strategy: ddp`."""
    log_every: int = Field(10, gt=0)
    """Steps between two records of the metrics."""
    watch_gradients: bool = True
    """Record the norm of the gradient."""
    compile: bool = False
    """Compile the image encoder's blocks with `torch.compile`: slower at the start, faster steps
    after. Not with `zero_3`."""


class EvaluationConfig(Section):
    """Held-out images, looked at without jitter."""

    every_steps: int | None = Field(None, gt=0)
    """Steps between two looks during training; none by default."""
    images: int = Field(64, gt=0)
    """Held-out images looked at during training, over all workers, spread over the whole set."""
    final_images: int | None = Field(None, ge=0)
    """Held-out images in the final table and pictures; all by default, 0 for no final table."""
    pictures: int = Field(12, gt=0)
    """Regions drawn in the picture grid."""
    page: bool = True
    """Write `report/index.html` at the end: curves, scores and held-out regions, for people."""
