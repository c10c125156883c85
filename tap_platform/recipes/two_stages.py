"""Masks and concepts over two stages of prompts: what pre-training and full fine-tuning share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.stream.batch import RegionBatch
from tap_platform.config.objective import ObjectiveConfig
from tap_platform.models import RegionOutput
from tap_platform.objectives.pretraining import Stage, StageLosses, two_stages, weighted
from tap_platform.objectives.prompts import Prompts
from tap_platform.recipes.region_recipe import RegionRecipe

STAGES = ("first", "second")
TERMS = ("focal", "dice", "iou", "concept", "actual_iou")
MEANS = ("loss", *(f"{stage}/{term}" for stage in STAGES for term in TERMS))


def prompt_twice(
    recipe: RegionRecipe, batch: RegionBatch
) -> tuple[Stage[RegionOutput], Stage[RegionOutput]]:
    """Encode a batch, and take both stages' answers and losses."""
    images = recipe.encode(batch)

    def decode(prompts: Prompts) -> RegionOutput:
        return recipe.decode(images, prompts, batch.image_index)

    frame = recipe.job.model.image_size
    return two_stages(decode, batch, recipe.vocabulary, recipe.objective, frame)


def term_sums(
    stages: Sequence[StageLosses], batch: RegionBatch, objective: ObjectiveConfig
) -> dict[str, Tensor]:
    """Sums over a micro-batch: the joined loss, the terms of both stages, masks and regions."""
    weights = batch.weights
    joined = torch.stack([(weighted(losses, objective) * weights).sum() for losses in stages])
    terms = {
        f"{stage}/{term}": (getattr(losses, term) * weights).sum()
        for stage, losses in zip(STAGES, stages, strict=True)
        for term in TERMS
    }
    return {
        "loss": joined.mean() if objective.stage_reduction == "mean" else joined.sum(),
        **terms,
        "masks": (weights * batch.has_mask).sum(),
        "regions": weights.sum(),
    }


def term_values(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a step records of its `term_sums`: means over its regions, and how many these are.

    The IoU's mean is over the regions with a mask.
    """
    means = {
        name: sums[name] / sums["masks" if name.endswith("actual_iou") else "regions"].clamp(min=1)
        for name in MEANS
    }
    return {**means, "regions": sums["regions"]}
