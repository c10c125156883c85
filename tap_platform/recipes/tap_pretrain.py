"""TAP pre-training: masks and concepts from two stages of prompts (TAP paper, section 3.3)."""

from __future__ import annotations

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
from tap_platform.config.objective import ObjectiveConfig
from tap_platform.evaluation.regions import score_batch
from tap_platform.evaluation.scores import RegionScores
from tap_platform.models import RegionOutput, Tap
from tap_platform.objectives.pretraining import StageLosses, total, two_stages, weighted
from tap_platform.objectives.prompts import Prompts
from tap_platform.recipes.mae import load_mae_weights
from tap_platform.recipes.optimizer import build_optimizer, build_scheduler

STAGES = ("first", "second")
TERMS = ("focal", "dice", "iou", "concept", "actual_iou")


class TapPretrain(LightningModule):
    """Image encoder, prompt encoder and image decoder learn; the text decoder rests."""

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
        self.model.text_decoder.requires_grad_(False)
        if job.recipe.mae_weights:
            load_mae_weights(self.model.image_encoder, job.recipe.mae_weights)
        self.register_buffer("vocabulary", vocabulary.float(), persistent=False)
        self._step_sums: list[Tensor] = []
        self._held_out_sums: list[Tensor] = []

    def training_step(self, batch: RegionBatch, batch_idx: int) -> Tensor:
        """The loss of a micro-batch, normalized over the regions of the whole global batch."""
        images = self.model.encode(self.model.normalize(batch.pixels))

        def decode(prompts: Prompts) -> RegionOutput:
            return self.model.decode(images, prompts.points, prompts.labels, batch.image_index)

        frame = self.job.model.image_size
        stages = two_stages(decode, batch, self.vocabulary, self.objective, frame)
        self._step_sums.append(_term_sums(stages, batch, self.objective))
        if (batch_idx + 1) % self.job.accumulation == 0:
            self._record_step()
        # Gradients are averaged over micro-batches and workers: each takes its share of the count.
        regions = _sum_over_workers(batch.weights.new_tensor(batch.step_regions))
        share = regions / (_world_size() * self.job.accumulation)
        return total(stages, batch.weights, share, self.objective)

    def validation_step(self, batch: RegionBatch, batch_idx: int) -> None:
        """Score held-out regions by box and by one point."""
        self._held_out_sums.append(score_batch(self.model, batch, self.vocabulary))

    def on_validation_epoch_end(self) -> None:
        """Record the scores over all workers."""
        scores = RegionScores.from_sums(_sum_over_workers(torch.stack(self._held_out_sums).sum(0)))
        self._held_out_sums.clear()
        values = {
            "val/box_iou": scores.box_iou,
            "val/point_iou": scores.point_iou,
            "val/point_oracle_iou": scores.point_oracle_iou,
            "val/concept_top1": scores.concept_top1,
        }
        known = {name: value for name, value in values.items() if value is not None}
        if known:
            self.log_dict({**known, "step": float(self.global_step)})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, and the learning rate by the step."""
        optimizer = build_optimizer(self.model, self.job.optimizer)
        max_steps = self.job.training.max_steps
        scheduler = build_scheduler(optimizer, max_steps, self.job.schedule)
        return OptimizerLRSchedulerConfig(
            optimizer=optimizer,
            lr_scheduler=LRSchedulerConfigType(scheduler=scheduler, interval="step"),
        )

    def _record_step(self) -> None:
        """Record the terms of a whole step, over its micro-batches and all workers."""
        step = self.global_step + 1
        sums = torch.stack(self._step_sums).sum(0)
        self._step_sums.clear()
        if step % self.job.training.log_every:
            return
        *terms, masks, regions = _sum_over_workers(sums)
        names = ["loss", *(f"{stage}/{term}" for stage in STAGES for term in TERMS)]
        values = {
            name: term / (masks if name.endswith("actual_iou") else regions).clamp(min=1)
            for name, term in zip(names, terms, strict=True)
        }
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        self.log_dict({**values, "regions": regions, "lr": rate, "step": float(step)})


def _term_sums(
    stages: tuple[StageLosses, StageLosses], batch: RegionBatch, objective: ObjectiveConfig
) -> Tensor:
    """Sums over a micro-batch: the joined loss, the terms of both stages, masks and regions."""
    weights = batch.weights
    joined = torch.stack([(weighted(losses, objective) * weights).sum() for losses in stages])
    loss = joined.mean() if objective.stage_reduction == "mean" else joined.sum()
    terms = [(getattr(losses, term) * weights).sum() for losses in stages for term in TERMS]
    masks = (weights * batch.has_mask).sum()
    return torch.stack([loss, *terms, masks, weights.sum()]).detach()


def _sum_over_workers(values: Tensor) -> Tensor:
    """Sum a tensor over all workers; one collective where there are several."""
    if _world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
