"""What pre-training minimizes: segmentation and concepts, over two prompt stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tap_platform.config.objective import ObjectiveConfig
from tap_platform.objectives import concepts, segmentation
from tap_platform.objectives.draws import region_seeds
from tap_platform.objectives.prompts import Prompts, first_prompts, refine_prompts
from tap_platform.objectives.routing import route, select


class Answers(Protocol):
    """What the model says to M prompts: four candidates each."""

    @property
    def masks(self) -> Tensor:
        """Logits [M, 4, R, R]."""

    @property
    def iou(self) -> Tensor:
        """Predicted IoU [M, 4]."""

    @property
    def concept_embeddings(self) -> Tensor:
        """[M, 4, D]."""


class Regions(Protocol):
    """What is true of M regions of B images, and the seeds of their prompts."""

    @property
    def masks(self) -> Tensor:
        """Bool [M, R, R]; the box, where there is no mask."""

    @property
    def has_mask(self) -> Tensor:
        """Bool [M]: False where only the box is known."""

    @property
    def boxes(self) -> Tensor:
        """float32 [M, 4], xyxy in pixels of the input frame."""

    @property
    def image_index(self) -> Tensor:
        """int64 [M], ascending."""

    @property
    def priors(self) -> Tensor:
        """The teacher's embeddings, float32 [M, D]; zeros where absent."""

    @property
    def has_prior(self) -> Tensor:
        """Bool [M]."""

    @property
    def seeds(self) -> Tensor:
        """int64 [B]."""


class StageLosses(NamedTuple):
    """One prompt stage's losses, each float32 [M] and not yet weighted, and what was trained.

    All but `concept` are zero for regions without a mask.
    """

    focal: Tensor
    dice: Tensor
    iou: Tensor
    concept: Tensor
    """Zero for regions without a prior."""
    actual_iou: Tensor
    """float32 [M]: IoU of the routed mask with the true one."""
    routed: Tensor
    """int64 [M]: which of its four masks a prompt trained."""


AnswersT = TypeVar("AnswersT", bound=Answers)


class Stage(NamedTuple, Generic[AnswersT]):
    """One prompt stage: what the model answered, and what that costs."""

    answers: AnswersT
    losses: StageLosses


def two_stages(
    decode: Callable[[Prompts], AnswersT],
    regions: Regions,
    vocabulary: Tensor,
    config: ObjectiveConfig,
    frame: int,
) -> tuple[Stage[AnswersT], Stage[AnswersT]]:
    """Prompt the model, prompt it again where it erred, and take the losses of both answers.

    Args:
        decode: the model's answers to one prompt for each region.
        regions: what is true.
        vocabulary: float32 [V, D], unit rows.
        config: what is minimized.
        frame: side of the input frame, in pixels.
    """
    seeds = region_seeds(regions.seeds, regions.image_index)
    prompts = first_prompts(regions.boxes, regions.masks, seeds, config.prompts, frame)
    answers = decode(prompts)
    first = stage_losses(answers, regions, prompts.is_box, vocabulary, config)
    refined = refine_prompts(
        prompts,
        select(answers.masks.detach(), first.routed) > 0,
        regions.masks,
        seeds,
        regions.seeds,
        regions.image_index,
        config.prompts,
        frame,
    )
    again = decode(refined)
    second = stage_losses(again, regions, refined.is_box, vocabulary, config)
    return Stage(answers, first), Stage(again, second)


def stage_losses(
    answers: Answers,
    regions: Regions,
    is_box: Tensor,
    vocabulary: Tensor,
    config: ObjectiveConfig,
) -> StageLosses:
    """The losses of every region for one prompt stage.

    Args:
        answers: the model's.
        regions: what is true.
        is_box: bool [M], which prompts began as a box.
        vocabulary: float32 [V, D], unit rows.
        config: what is minimized.
    """
    index = _routed(answers, regions.masks, is_box, config)
    logits = select(answers.masks, index)
    actual, iou_loss = _iou_terms(answers, regions.masks, index, config)
    embeddings = select(answers.concept_embeddings, index)
    focal = segmentation.focal_loss(logits, regions.masks, config.focal_alpha, config.focal_gamma)
    dice = segmentation.dice_loss(logits, regions.masks, config.dice_epsilon)
    concept = _concept_loss(embeddings, regions.priors, vocabulary, config)
    return StageLosses(
        focal=focal.masked_fill(~regions.has_mask, 0),
        dice=dice.masked_fill(~regions.has_mask, 0),
        iou=iou_loss.masked_fill(~regions.has_mask, 0),
        concept=concept.masked_fill(~regions.has_prior, 0),
        actual_iou=actual.masked_fill(~regions.has_mask, 0),
        routed=index,
    )


def weighted(losses: StageLosses, config: ObjectiveConfig) -> Tensor:
    """The joined loss of each region, float32 [M]: alpha concept + beta (20 focal + dice + iou)."""
    masks = (
        config.focal_weight * losses.focal
        + config.dice_weight * losses.dice
        + config.iou_weight * losses.iou
    )
    return config.segmentation_weight * masks + config.concept_weight * losses.concept


def total(
    stages: Sequence[StageLosses],
    weights: Tensor,
    denominator: Tensor,
    config: ObjectiveConfig,
) -> Tensor:
    """The loss to minimize, a scalar.

    Args:
        stages: the losses of each prompt stage.
        weights: float32 [M]; zero drops a region.
        denominator: scalar, the sum of the weights over all workers. Where the strategy averages
            gradients over workers, pass that sum divided by their number. Zero gives a zero loss.
        config: the weights of the terms, and how stages join.
    """
    means = [weighted_mean(weighted(losses, config), weights, denominator) for losses in stages]
    joined = torch.stack(means)
    return joined.mean() if config.stage_reduction == "mean" else joined.sum()


def weighted_mean(values: Tensor, weights: Tensor, denominator: Tensor) -> Tensor:
    """The sum of values times weights, [M] each, over a scalar; zero where that is zero."""
    return (weights * values).sum() / denominator.masked_fill(denominator == 0, 1)


def term_means(losses: StageLosses, weights: Tensor, denominator: Tensor) -> dict[str, Tensor]:
    """The mean of every term of one stage, for the log: detached scalars by the term's name."""
    return {
        name: weighted_mean(values.detach(), weights, denominator)
        for name, values in losses._asdict().items()
        if name != "routed"
    }


@torch.no_grad()
def _routed(answers: Answers, masks: Tensor, is_box: Tensor, config: ObjectiveConfig) -> Tensor:
    """The index [M] of the mask that each prompt trains."""
    if config.routing == "predicted_iou":
        return route(is_box, answers.iou)
    candidates = answers.masks[:, 1:]
    focal = segmentation.focal_loss(candidates, masks, config.focal_alpha, config.focal_gamma)
    dice = segmentation.dice_loss(candidates, masks, config.dice_epsilon)
    costs = config.focal_weight * focal + config.dice_weight * dice
    return route(is_box, F.pad(-costs, (1, 0)))


def _iou_terms(
    answers: Answers, masks: Tensor, index: Tensor, config: ObjectiveConfig
) -> tuple[Tensor, Tensor]:
    """The routed masks' actual IoU [M], and the loss [M] of the IoU predictions."""
    if config.iou_supervision == "all":
        actual = segmentation.actual_iou(answers.masks, masks)
        return select(actual, index), segmentation.iou_loss(answers.iou, actual).mean(1)
    actual = segmentation.actual_iou(select(answers.masks.detach(), index), masks)
    return actual, segmentation.iou_loss(select(answers.iou, index), actual)


def _concept_loss(
    embeddings: Tensor, priors: Tensor, vocabulary: Tensor, config: ObjectiveConfig
) -> Tensor:
    """The loss [M] of concept embeddings [M, D] against the teacher's."""
    if config.concept_loss == "feature":
        return concepts.feature_loss(embeddings, priors)
    return concepts.concept_kl_loss(
        embeddings, priors, vocabulary, config.temperature, config.kl_direction
    )
