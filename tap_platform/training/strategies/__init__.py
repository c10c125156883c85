"""How model, gradients and optimizer are shared out over workers: one name picks the strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy

from tap_platform.config.job import JobConfig

if TYPE_CHECKING:
    from tap_platform.training.checkpoint_writer import CheckpointWriter
    from tap_platform.training.sliced_checkpoints import SlicedCheckpoints

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Lightning's words for `training.precision`, where torch's autocast is Lightning's."""


def build_strategy(job: JobConfig, writer: CheckpointWriter) -> SlicedCheckpoints:
    """The Lightning strategy that `scale.strategy` names, inside a Ray Train worker.

    Args:
        job: the job, at the number of workers that there are.
        writer: where the strategy's checkpoints go.
    """
    strategy = _strategy_of(job)
    strategy.writer = writer
    return strategy


def _strategy_of(job: JobConfig) -> SlicedCheckpoints:
    """What one strategy needs is imported for it alone: DeepSpeed takes seconds."""
    if job.scale.strategy == "ddp":
        from tap_platform.training.strategies.replicated import ReplicatedStrategy

        return ReplicatedStrategy()
    if job.scale.strategy == "fsdp":
        from tap_platform.training.strategies.fsdp import FsdpStrategy

        return FsdpStrategy(offload=job.scale.offload == "parameters")
    from tap_platform.training.strategies.zero import build_zero_strategy

    return build_zero_strategy(job)


def precision_of(job: JobConfig) -> Any:
    """How Lightning computes; under ZeRO autocast is DeepSpeed's."""
    if job.scale.strategy.startswith("zero"):
        return "32-true"
    return PRECISIONS[job.training.precision]


def is_zero(strategy: Strategy) -> bool:
    """Whether DeepSpeed has the gradients: they are in no `grad`, and it clips them itself."""
    return isinstance(strategy, DeepSpeedStrategy)
