"""Sections of a job that do not go together; they are refused before anything starts."""

from __future__ import annotations

from tap_platform.config.scale import ScaleConfig
from tap_platform.config.training import TrainingConfig


def check_strategy(scale: ScaleConfig, training: TrainingConfig) -> None:
    """See whether a strategy can compute as it is asked to.

    Raises:
        ValueError: naming both keys, and what to take instead.
    """
    if training.precision == "fp16" and scale.device == "cpu":
        raise ValueError("training.precision fp16 needs a GPU: take bf16 or fp32 on CPUs")
    if training.precision == "fp16" and scale.strategy != "ddp":
        raise ValueError(
            "training.precision fp16 goes with scale.strategy ddp only, for the loss scale of"
            f" {scale.strategy} would not be the same for all workers: take bf16"
        )
    if training.compile and scale.strategy == "zero_3":
        raise ValueError(
            "training.compile does not go with scale.strategy zero_3, which gathers weights inside"
            " of what is compiled: take fsdp, which shards as much, or zero_2"
        )
