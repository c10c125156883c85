"""What pre-training minimizes, and the prompts it is cued by (TAP paper, section 3.3)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tap_platform.config.base import Section


class PromptConfig(Section):
    """Two-stage prompt sampling, at most nine points a region."""

    box_probability: float = Field(0.5, ge=0, le=1)
    """Share of first prompts that are a box; the others are one point inside the region."""
    box_jitter: float = Field(0.1, ge=0)
    """Standard deviation of the box corners' outward noise, as a share of the box side."""
    box_jitter_limit: float = Field(20.0, ge=0)
    """Largest box noise, in pixels of the input frame."""
    max_points: int = Field(9, ge=1)
    """Points a region may carry after both stages; the second stage adds 1 to `max_points - 1`."""
    interactive_probability: float = Field(0.5, ge=0, le=1)
    """Share of images whose second stage points at the errors of the first prediction.

    The others draw their points from the true region (the paper's 50 % non-interactive). The
    released sampler draws the number of points once for a whole call; here each image draws its
    own, so that a draw depends on no other image of the batch. In the small ablation
    (docs/ablations.md) 1.0 is no better: mIoU by one point 55.6 ± 0.6 %, against 55.9 ± 0.2 %.
    """


class ObjectiveConfig(Section):
    """Weights of the losses, and the choices that the paper leaves open."""

    focal_weight: float = Field(20.0, ge=0)
    """Weight of the focal loss (paper: 20)."""
    dice_weight: float = Field(1.0, ge=0)
    """Weight of the dice loss (paper: 1)."""
    iou_weight: float = Field(1.0, ge=0)
    """Weight of the IoU regression (paper: 1)."""
    segmentation_weight: float = Field(1.0, ge=0)
    """Beta: weight of the three losses above together (paper: 1)."""
    concept_weight: float = Field(1.0, ge=0)
    """Alpha: weight of the concept loss (paper: 1)."""

    focal_alpha: float = Field(0.25, ge=0, le=1)
    """Weight of positive pixels in the focal loss; negatives weigh `1 - focal_alpha`."""
    focal_gamma: float = Field(2.0, ge=0)
    """Focusing exponent of the focal loss."""
    dice_epsilon: float = Field(1.0, gt=0)
    """Smoothing of the dice loss, in pixels."""

    concept_loss: Literal["kl", "feature"] = "kl"
    """`kl` matches distributions over the vocabulary; `feature` is the paper's ablation, a cosine
    distance between embeddings."""
    kl_direction: Literal["target_to_prediction", "prediction_to_target"] = "target_to_prediction"
    """Which KL divergence. The paper's equation reads KL(prediction || target); the authors' remark
    on encoding the *log* target suggests torch's `kl_div`, which is KL(target || prediction): it
    covers every concept that the teacher finds likely, so it is the default. In the small ablation
    (docs/ablations.md) it learns concepts, 21.4 ± 0.7 % top-1, where the other direction does not,
    3.3 ± 0.3 %; masks are the same."""
    temperature: float = Field(0.01, gt=0)
    """Tau: cosine similarities are divided by it (paper: 0.01, CLIP's logit scale of 100)."""

    routing: Literal["predicted_iou", "lowest_loss"] = "predicted_iou"
    """Which of the three point masks a point prompt trains. A box always trains mask 0. The
    released sampler returns an offset to add to the predicted IoU, so the model routes itself;
    `lowest_loss` is SAM's rule. The semantic token is routed like the mask. In the small ablation
    the two do not differ beyond the spread: mIoU by one point 55.9 ± 0.2 and 55.2 ± 0.6 %."""
    iou_supervision: Literal["routed", "all"] = "all"
    """Which IoU predictions are trained: the routed mask's, or all four. The paper is silent; all
    four keeps the scores of masks that are not routed honest, which routing by score needs."""
    stage_reduction: Literal["mean", "sum"] = "mean"
    """How the losses of the two prompt stages join. The paper is silent; the mean keeps the scale
    of the loss weights whatever the number of stages."""
    prompts: PromptConfig = PromptConfig()
    """How prompts are drawn."""
