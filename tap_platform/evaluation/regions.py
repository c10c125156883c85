"""How well a model segments and names held-out regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tap_platform.evaluation.answers import Answers, ask, evaluation_mode
from tap_platform.evaluation.scores import RegionScores, region_sums
from tap_platform.objectives.routing import route, select
from tap_platform.objectives.segmentation import actual_iou

if TYPE_CHECKING:
    from datamodules.stream.batch import RegionBatch
    from tap_platform.models import Tap


def evaluate_regions(
    model: Tap,
    batches: Iterable[RegionBatch],
    vocabulary: Tensor,
    progress: Callable[[int], None] | None = None,
    listen: Callable[[RegionBatch, Answers], None] | None = None,
) -> RegionScores:
    """Score a model on held-out regions.

    Args:
        model: on any device; it is put in evaluation mode for the while.
        batches: held-out batches, on any device.
        vocabulary: float32 [V, D] unit rows, the concepts to choose from.
        progress: is called after each batch with the number of images in it.
        listen: is given each batch and the answers, on the model's device and in evaluation mode,
            so that what else is asked needs no second look at the images.
    """
    device = model.pixel_mean.device
    vocabulary = vocabulary.to(device)
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    for batch in batches:
        with evaluation_mode(model):
            own = batch.to(device)
            answers = ask(model, own)
            sums += score_batch(answers, own, vocabulary)
            if listen:
                listen(own, answers)
        if progress:
            progress(len(batch.pixels))
    return RegionScores.from_sums(sums)


def score_batch(answers: Answers, batch: RegionBatch, vocabulary: Tensor) -> Tensor:
    """The sums of `region_sums` for one batch, over the regions with a mask: float64 [6].

    Answers, batch and vocabulary are on one device.
    """
    by_point = actual_iou(answers.by_point.masks, batch.masks)
    picked = route(torch.zeros_like(batch.has_prior), answers.by_point.iou)
    return region_sums(
        box_iou=actual_iou(answers.by_box.masks[:, 0], batch.masks),
        point_iou=select(by_point, picked),
        point_oracle_iou=by_point[:, 1:].amax(1),
        predicted_concepts=likeliest(answers.by_box.concept_embeddings[:, 0], vocabulary),
        concepts=batch.concepts,
        weights=batch.weights * batch.has_mask,
    )


def likeliest(embeddings: Tensor, vocabulary: Tensor) -> Tensor:
    """The concept [M] nearest to each embedding [M, D]; the temperature cannot change it."""
    with torch.autocast(embeddings.device.type, enabled=False):
        return (F.normalize(embeddings.float(), dim=-1) @ vocabulary.T).argmax(-1)
