"""What the recipes of TAP share: which parts rest, what a step records, held-out scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import (
    LRSchedulerConfigType,
    OptimizerLRSchedulerConfig,
)
from torch import Tensor

from datamodules.stream.batch import RegionBatch
from tap_platform.config.job import JobConfig
from tap_platform.evaluation.answers import Answers, ask
from tap_platform.evaluation.regions import score_batch
from tap_platform.evaluation.scores import RegionScores
from tap_platform.models import RegionOutput, Tap
from tap_platform.objectives.prompts import Prompts
from tap_platform.recipes.optimizer import build_optimizer, build_scheduler


class RegionRecipe(LightningModule):
    """Optimizes TAP, or parts of it, on regions of images.

    The parts that are not trained rest: they get no gradient, and they stay in evaluation mode, so
    that neither their weights nor their batch-norm statistics move.
    """

    vocabulary: Tensor

    def __init__(self, job: JobConfig, vocabulary: Tensor) -> None:
        """Build the model of a job.

        Args:
            job: the whole job.
            vocabulary: unit text embeddings of the concepts [V, concept_dim].
        """
        super().__init__()
        self.job = job
        self.objective = job.recipe.objective
        self.model = Tap(job.model)
        self.register_buffer("vocabulary", vocabulary.float(), persistent=False)
        self._step_sums: list[Tensor] = []
        self._held_out_sums: list[Tensor] = []
        for name, part in self.model.named_children():
            part.requires_grad_(name in job.recipe.trained_parts)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the parts that are trained; the others stay in evaluation mode."""
        super().train(mode)
        for name, part in self.model.named_children():
            part.train(mode and name in self.job.recipe.trained_parts)
        return self

    def trainable_names(self) -> set[str]:
        """Names in the state dict that training changes: parameters and buffers of trained parts.

        They begin with `model.`, as all names of a recipe.
        """
        prefixes = tuple(f"model.{part}." for part in self.job.recipe.trained_parts)
        return {name for name in self.state_dict() if name.startswith(prefixes)}

    def encode(self, batch: RegionBatch) -> Tensor:
        """Embed the images of a batch, each once for all its regions: [B, C, H, W]."""
        return self.model.encode(self.model.normalize(batch.pixels))

    def decode(self, images: Tensor, prompts: Prompts, image_index: Tensor) -> RegionOutput:
        """Answer prompts about embedded images; image_index [M] says which image each is of."""
        return self.model.decode(images, prompts.points, prompts.labels, image_index)

    def shares(self, *counts: int) -> Tensor:
        """What sums over a micro-batch are divided by, to weigh all regions of a step alike.

        Gradients are averaged over micro-batches and workers, so each takes its share of a count.

        Args:
            counts: what this worker counts in the whole step.

        Returns:
            float32 [len(counts)].
        """
        whole = sum_over_workers(torch.tensor(counts, dtype=torch.float32, device=self.device))
        return whole / (_world_size() * self.job.accumulation)

    def record(self, sums: Mapping[str, Tensor], batch_idx: int) -> None:
        """Take the sums of a micro-batch; where it ends a step that is recorded, record the step.

        Args:
            sums: scalars under the same names in every micro-batch.
            batch_idx: number of the micro-batch.
        """
        self._step_sums.append(torch.stack(list(sums.values())).detach())
        if (batch_idx + 1) % self.job.accumulation:
            return
        step = self.global_step + 1
        totals = torch.stack(self._step_sums).sum(0)
        self._step_sums.clear()
        if step % self.job.training.log_every:
            return
        values = self.step_values(dict(zip(sums, sum_over_workers(totals), strict=True)))
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        self.log_dict({**values, "lr": rate, "step": float(step)})

    def step_values(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a step records, from its sums over all micro-batches and workers."""
        raise NotImplementedError

    def validation_step(self, batch: RegionBatch, batch_idx: int) -> None:
        """Score held-out regions."""
        self._held_out_sums.append(self.held_out_sums(batch, ask(self.model, batch)))

    def on_validation_epoch_end(self) -> None:
        """Record the scores over all workers."""
        sums = sum_over_workers(torch.stack(self._held_out_sums).sum(0))
        self._held_out_sums.clear()
        values = self.held_out_values(sums)
        known = {f"val/{name}": value for name, value in values.items() if value is not None}
        if known:
            self.log_dict({**known, "step": float(self.global_step)})

    def held_out_sums(self, batch: RegionBatch, answers: Answers) -> Tensor:
        """Sums over a batch and its answers that scores are made of, float64 [K]."""
        return score_batch(answers, batch, self.vocabulary)

    def held_out_values(self, sums: Tensor) -> dict[str, float | None]:
        """Scores from sums over all batches and workers; None where no region tells."""
        scores = RegionScores.from_sums(sums)
        return {
            "box_iou": scores.box_iou,
            "point_iou": scores.point_iou,
            "point_oracle_iou": scores.point_oracle_iou,
            "concept_top1": scores.concept_top1,
        }

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over what is trained, and the learning rate by the step."""
        optimizer = build_optimizer(self.model, self.job.optimizer)
        max_steps = self.job.training.max_steps
        scheduler = build_scheduler(optimizer, max_steps, self.job.schedule)
        return OptimizerLRSchedulerConfig(
            optimizer=optimizer,
            lr_scheduler=LRSchedulerConfigType(scheduler=scheduler, interval="step"),
        )


def sum_over_workers(values: Tensor) -> Tensor:
    """Sum a tensor over all workers; one collective where there are several."""
    if _world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
