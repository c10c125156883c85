"""A job: recipe + data + scale + tracking, in one tree."""

from __future__ import annotations

import hashlib
from math import ceil
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

from tap_platform.config.alerts import AlertsConfig
from tap_platform.config.base import Section
from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.config.combinations import check_strategy
from tap_platform.config.data import DataConfig
from tap_platform.config.health import HealthConfig
from tap_platform.config.initial_weights import InitialWeights
from tap_platform.config.mirror import MirrorConfig
from tap_platform.config.model import TapConfig
from tap_platform.config.recipe import RecipeConfig, TapCaptionConfig, TapPretrainConfig
from tap_platform.config.scale import ScaleConfig
from tap_platform.config.tracking import TrackingConfig
from tap_platform.config.training import (
    EvaluationConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)


def _expand_preset(value: Any) -> Any:
    """Turn `{preset: vit_b, drop_path: 0.2}` into the whole set of sizes."""
    if isinstance(value, dict) and "preset" in value:
        from tap_platform.config.model import PRESETS

        name = value["preset"]
        if name not in PRESETS:
            raise ValueError(f"no preset named {name!r}: choose one of {', '.join(PRESETS)}")
        return {**PRESETS[name], **{key: v for key, v in value.items() if key != "preset"}}
    return value


def _as_source(value: Any) -> Any:
    """Let a plain name stand for weights without further settings."""
    return {"source": value} if isinstance(value, str) else value


def _pretrain_by_default(value: Any) -> Any:
    return {"type": "tap_pretrain", **value} if isinstance(value, dict) else value


class JobConfig(Section):
    """Everything that one run needs, resolved."""

    located: ClassVar[tuple[str, ...]] = ("storage",)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """Name of the job: lower-case letters, digits, `-` and `_`. Runs are named after it."""
    project: str = Field("tap", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """Runs of one project lie together and are tracked together."""
    storage: str = "runs"
    """Folder that holds `<project>/<run>/`, the run directories."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the initial weights and of dropout; the data's order has a seed of its own."""
    model: Annotated[TapConfig, BeforeValidator(_expand_preset)]
    """Sizes of the model; `preset:` names a known set of them, other keys change it."""
    recipe: Annotated[RecipeConfig, BeforeValidator(_pretrain_by_default)] = TapPretrainConfig()
    """What is optimized."""
    init_from: Annotated[InitialWeights | None, BeforeValidator(_as_source)] = None
    """Weights that the model starts from, instead of random ones: a run, a checkpoint or a file, or
    a section with a prefix map."""
    data: DataConfig
    """Where samples come from; `source:` picks the kind."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over time."""
    training: TrainingConfig
    """Steps, batch and precision."""
    scale: ScaleConfig = ScaleConfig()
    """Workers and strategy."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When checkpoints are written, where, and which stay."""
    health: HealthConfig = HealthConfig()
    """When a run is ill, and what is done about it."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Looks at held-out images."""
    tracking: TrackingConfig = TrackingConfig()
    """Where records are sent."""
    mirror: MirrorConfig = MirrorConfig()
    """Where the run directory's files are copied to."""
    alerts: AlertsConfig = AlertsConfig()
    """When somebody is told of the run, and where."""

    def on(self, workers: int) -> JobConfig:
        """The job at one number of workers: the same steps and global batches, cut for so many.

        A forward pass holds no more images than it does at the most workers of an elastic run, so
        that fewer workers need no more memory for them.

        Args:
            workers: how many there are, from 1 to `data.partitions`.

        Raises:
            ValueError: if they are more than the partitions.
        """
        micro_batch = self.training.micro_batch or self.micro_batch
        job: JobConfig = self.replaced(
            scale=self.scale.replaced(workers=workers),
            training=self.training.replaced(micro_batch=micro_batch),
        )
        return job

    @property
    def worker_images(self) -> int:
        """Images of one optimizer step that a worker has, at the most: its partitions' shares.

        An elastic run's are those at the most workers; `on` tells of others.
        """
        share = self.training.global_batch // self.data.partitions
        return ceil(self.data.partitions / self.scale.most_workers) * share

    @property
    def accumulation(self) -> int:
        """Forward passes of one worker in one optimizer step, the same on every worker."""
        return ceil(self.worker_images / (self.training.micro_batch or self.worker_images))

    @property
    def micro_batch(self) -> int:
        """Images in one forward pass of one worker, at the most: a step is cut evenly."""
        return ceil(self.worker_images / self.accumulation)

    @property
    def last_records_seconds(self) -> float:
        """How long the end of a run may wait for its tracker, its mirror and its alerts."""
        return sum(each.final_timeout for each in (self.tracking, self.mirror, self.alerts))

    @property
    def identity(self) -> str:
        """sha256 of the resolved config."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        workers, total = self.scale.most_workers, self.training.global_batch
        partitions = self.data.partitions
        if workers > partitions:
            raise ValueError(
                f"scale.workers {workers} is above data.partitions {partitions}: a worker takes"
                " whole partitions, so that every number of workers sees the same batches; take"
                f" {partitions} workers at most, or more partitions in a new run"
            )
        if total % partitions:
            raise ValueError(
                f"data.partitions {partitions} does not divide training.global_batch {total}: every"
                " partition gives an equal share to a batch"
            )
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        check_strategy(self.scale, self.training)
        elastic = self.scale.least_workers < self.scale.most_workers
        if (
            elastic
            and self.checkpoint.every_steps is None
            and self.checkpoint.every_minutes is None
        ):
            raise ValueError(
                "scale.workers [least, most] starts anew from the last checkpoint at every resize:"
                " set checkpoint.every_minutes or checkpoint.every_steps"
            )
        if self.schedule.warmup_steps >= self.training.max_steps:
            raise ValueError(
                f"schedule.warmup_steps {self.schedule.warmup_steps} is not below"
                f" training.max_steps {self.training.max_steps}: the rate would never decay"
            )
        partial = isinstance(self.recipe, TapCaptionConfig) and self.recipe.train != "all"
        if partial and self.init_from is None:
            raise ValueError(
                "recipe.train text_decoder freezes all other parts, which are random without"
                " init_from: name the run, checkpoint or file that the model starts from"
            )
        jitter = self.data.jitter
        if jitter.minimum > jitter.maximum:
            raise ValueError(
                f"data.jitter.minimum {jitter.minimum} is above"
                f" data.jitter.maximum {jitter.maximum}"
            )
        return self
