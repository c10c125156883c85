"""What a model says about regions of one image: its raw answers, and masks of the image's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tap_platform.prediction.frames import Frame

STABILITY_OFFSET = 1.0
"""How far the threshold is moved, in logits, to see whether a mask is stable (as SAM does)."""
_NUMBERS_AT_ONCE = 2**25
"""Masks are enlarged in chunks of about as many float32 numbers."""


@dataclass(frozen=True)
class Prediction:
    """M regions of an image of H x W pixels.

    With `multimask`, every first axis [M] is [M, 3]: three candidates for each prompt.
    """

    masks: NDArray[np.bool_]
    """[M, H, W]."""
    iou: NDArray[np.float32]
    """The model's own guess of each mask's IoU with the true one, about 0 to 1, [M]."""
    stability: NDArray[np.float32]
    """How little a mask changes when its threshold moves, from 0 to 1, [M]."""
    boxes: NDArray[np.float32]
    """The masks' own boxes: left, top, right and bottom in pixels, 0 for empty masks, [M, 4]."""
    low_res_logits: NDArray[np.float32]
    """Mask logits of the model's frame, [M, R, R]."""
    concepts: NDArray[np.str_] | None = None
    """The likeliest name of each, [M]; None without a vocabulary."""
    concept_scores: NDArray[np.float32] | None = None
    """Its probability, from 0 to 1, [M]."""
    captions: NDArray[np.str_] | None = None
    """[M]; None without a tokenizer, or where captions were not asked for."""

    def __len__(self) -> int:
        return len(self.masks)


class Answers(NamedTuple):
    """The masks and tokens that a model answers K prompts with, after the choice of candidates."""

    logits: Tensor
    """float32 [K, R, R]."""
    iou: Tensor
    """float32 [K]."""
    caption_tokens: Tensor
    """What prompts the text decoder, [K, C]."""
    concept_embeddings: Tensor
    """[K, D]."""

    def take(self, index: Tensor) -> Answers:
        """Some of the answers, by an int64 or a bool index."""
        return Answers(*(values[index] for values in self))

    @classmethod
    def joined(cls, parts: list[Answers]) -> Answers:
        """The answers of several chunks, at least one."""
        return cls(*(torch.cat(values) for values in zip(*parts, strict=True)))


class Measures(NamedTuple):
    """What K masks are like at the size of the image, on the CPU."""

    stability: Tensor
    """float32 [K]; see `stability_score`."""
    boxes: Tensor
    """float32 [K, 4]; see `mask_boxes`."""


def measure_masks(frame: Frame, logits: Tensor, masks: Tensor | None = None) -> Measures:
    """Enlarge logits [K, R, R] to the image, cut them at 0 and measure them, some at a time.

    Args:
        frame: of the image.
        logits: on any device.
        masks: bool [K, H, W], filled with the masks; left out, none is kept in memory.
    """
    stability, boxes = torch.empty(len(logits)), torch.empty(len(logits), 4)
    count = max(1, _NUMBERS_AT_ONCE // frame.pixels_per_mask())
    for start in range(0, len(logits), count):
        chunk = slice(start, start + count)
        enlarged = frame.masks_of_image(logits[chunk])
        stability[chunk] = stability_score(enlarged).cpu()
        boxes[chunk] = mask_boxes(enlarged > 0).cpu()
        if masks is not None:
            masks[chunk] = (enlarged > 0).cpu()
    return Measures(stability, boxes)


def stability_score(logits: Tensor, offset: float = STABILITY_OFFSET) -> Tensor:
    """IoU between each mask cut above and below 0, float32 [K] of [K, H, W]; 0 if it is empty."""
    inner = (logits > offset).flatten(1).sum(1)
    outer = (logits > -offset).flatten(1).sum(1)
    return inner / outer.clamp(min=1)


def mask_boxes(masks: Tensor) -> Tensor:
    """Left, top, right and bottom of bool [K, H, W], in pixels; a box ends after its last pixel.

    Returns:
        float32 [K, 4], 0 where a mask is empty.
    """
    spans = [_span(masks.any(dim)) for dim in (1, 2)]
    (left, right), (top, bottom) = spans
    return torch.stack((left, top, right, bottom), 1).float()


def _span(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """The first set place and the one after the last, int64 [K] each, of bool [K, N]."""
    length = occupied.shape[1]
    places = torch.arange(length, device=occupied.device)
    last = torch.where(occupied, places + 1, 0).amax(1)
    first = torch.where(occupied, places, length).amin(1)
    return first.minimum(last), last
