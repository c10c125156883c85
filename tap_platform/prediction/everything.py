"""Everything on an image: ask about a grid of points, keep good masks, drop duplicates.

Source: Segment Anything, appendix B, on the whole image at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tap_platform.objectives.prompts import Prompts
from tap_platform.prediction.predictor import PROMPTS_AT_ONCE, TapPredictor
from tap_platform.prediction.prompts import read_prompts
from tap_platform.prediction.regions import Answers, Prediction, measure_masks


@dataclass(frozen=True)
class EverythingSettings:
    """What is asked, and what is kept. The defaults are SAM's."""

    points_per_side: int = 32
    """Points along each side of the image: their number is its square."""
    min_iou: float = 0.88
    """Masks that the model scores lower are dropped."""
    min_stability: float = 0.95
    """Masks that change more with their threshold are dropped."""
    max_overlap: float = 0.7
    """Of two boxes with a higher IoU, the one with the lower score is dropped."""


def segment_everything(
    predictor: TapPredictor,
    settings: EverythingSettings = EverythingSettings(),
    captions: bool = True,
) -> Prediction:
    """Find all regions of the predictor's image.

    All three masks of each point are candidates. They pass the filters in chunks; only what
    remains after the duplicates are gone is named and described.

    Args:
        predictor: after `set_image`.
        settings: the grid and the filters.
        captions: whether to describe regions, if there is a tokenizer.

    Returns:
        Regions, best scored first; there may be none.
    """
    height, width = predictor.image.shape[:2]
    prompts = read_prompts(points=grid_points(settings.points_per_side, height, width))
    chunks = zip(*(part.split(PROMPTS_AT_ONCE) for part in prompts), strict=True)
    kept = [_good(predictor, Prompts(*chunk), settings) for chunk in chunks]
    answers = Answers.joined([answers for answers, _ in kept])
    best = _without_duplicates(torch.cat([boxes for _, boxes in kept]), answers.iou, settings)
    return predictor.complete(answers.take(best), captions)


def grid_points(per_side: int, height: int, width: int) -> Tensor:
    """Centres of a grid of equal cells, row by row, float32 [per_side ** 2, 1, 2] in pixels."""
    shares = (torch.arange(per_side) + 0.5) / per_side
    y, x = torch.meshgrid(shares * height, shares * width, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)[:, None]


def _good(
    predictor: TapPredictor, prompts: Prompts, settings: EverythingSettings
) -> tuple[Answers, Tensor]:
    """The answers that pass both filters, and the boxes of their masks."""
    answers = predictor.ask(prompts, multimask=True)
    answers = answers.take(answers.iou > settings.min_iou)
    measures = measure_masks(predictor.frame, answers.logits)
    stable = measures.stability >= settings.min_stability
    return answers.take(stable.to(answers.iou.device)), measures.boxes[stable]


def _without_duplicates(boxes: Tensor, scores: Tensor, settings: EverythingSettings) -> Tensor:
    # It takes seconds to import, and only this mode needs it.
    from torchvision.ops import nms

    kept: Tensor = nms(boxes, scores.cpu(), settings.max_overlap)
    return kept.to(scores.device)
