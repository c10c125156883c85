"""Held-out regions with what a model says about them, to be shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tap_platform.evaluation.answers import Answers, ask, evaluation_mode
from tap_platform.objectives.concepts import concept_log_probabilities
from tap_platform.objectives.routing import route
from tap_platform.objectives.segmentation import actual_iou, mask_area
from tap_platform.prediction.captions import Speech

if TYPE_CHECKING:
    from datamodules.stream.batch import RegionBatch
    from tap_platform.models import RegionOutput, Tap

SMALLEST_SHOWN = 0.01
"""Smaller regions, as a share of the frame, are passed over where an image has larger ones."""


class Words(NamedTuple):
    """What people and a model say of a region."""

    phrase: str | None
    """The first of people's phrases; None where they say nothing."""
    caption: str


@dataclass(frozen=True)
class Example:
    """One region of a picture of H x W pixels, and a model's answer to one prompt."""

    picture: NDArray[np.uint8]
    """RGB [H, W, 3], without the frame's padding."""
    box: tuple[float, float, float, float] | None
    """The prompt, xyxy in pixels, if it is a box."""
    point: tuple[float, float] | None
    """The prompt, (x, y) in pixels, if it is a point."""
    true_mask: NDArray[np.float32]
    """[H, W], above 0 inside: enlarged from the loss resolution."""
    predicted_mask: NDArray[np.float32]
    """[H, W], above 0 inside: enlarged logits."""
    iou: float
    """IoU of the two masks, in the cells of the loss resolution."""
    true_concept: str | None
    """None for a region without a name."""
    predicted_concept: str
    """The likeliest name."""
    probability: float
    """Of that name, from 0 to 1."""
    words: Words | None = None
    """What is said of it; None for a model that has not learned to speak."""


def collect_examples(
    model: Tap,
    batches: Iterable[RegionBatch],
    names: Sequence[str],
    vocabulary: Tensor,
    temperature: float,
    count: int,
    speech: Speech | None = None,
) -> list[Example]:
    """One region from each of the first images, prompted by its box and by one point in turn.

    The choice looks at no answer: each next image shows a later one of its regions.

    Args:
        model: on any device.
        batches: held-out batches.
        names: the V concepts.
        vocabulary: float32 [V, D], their embeddings, unit rows.
        temperature: what cosine similarities are divided by.
        count: how many examples; there are fewer where fewer images have regions.
        speech: how a model speaks that has learned to.
    """
    return list(islice(_examples(model, batches, names, vocabulary, temperature, speech), count))


def _examples(
    model: Tap,
    batches: Iterable[RegionBatch],
    names: Sequence[str],
    vocabulary: Tensor,
    temperature: float,
    speech: Speech | None,
) -> Iterator[Example]:
    vocabulary = vocabulary.to(model.pixel_mean.device)
    number = 0
    for batch in (batch.to(vocabulary.device) for batch in batches):
        with evaluation_mode(model):
            answers = ask(model, batch)
        for image in range(len(batch.pixels)):
            regions = _regions_to_show(batch, image)
            if not regions:
                continue
            region, by_box = regions[number // 2 % len(regions)], number % 2 == 0
            output, mask = _answer(answers, region, by_box)
            logits = output.masks[region, mask].float()
            embedding = output.concept_embeddings[region, mask]
            logs = concept_log_probabilities(embedding, vocabulary, temperature)
            concept = int(logs.argmax())
            true_concept = int(batch.concepts[region])
            number += 1
            yield Example(
                picture=_cropped(batch.pixels[image], batch, image).permute(1, 2, 0).cpu().numpy(),
                box=tuple(batch.boxes[region].tolist()) if by_box else None,
                point=None if by_box else tuple(answers.points[region].tolist()),
                true_mask=_at_picture_size(batch.masks[region].float() - 0.5, batch, image),
                predicted_mask=_at_picture_size(logits, batch, image),
                iou=float(actual_iou(logits, batch.masks[region])),
                true_concept=names[true_concept] if true_concept >= 0 else None,
                predicted_concept=names[concept],
                probability=float(logs[concept].exp()),
                words=_words(model, speech, batch, output, region, mask) if speech else None,
            )


def _regions_to_show(batch: RegionBatch, image: int) -> list[int]:
    """An image's regions with a mask that are large enough, or its largest one if none is."""
    own = (batch.image_index == image) & (batch.weights > 0) & batch.has_mask
    areas = mask_area(batch.masks) * own
    largest = int(areas.max())
    enough = min(SMALLEST_SHOWN * batch.masks[0].numel(), largest)
    return torch.where(own & (areas >= enough))[0].tolist() if largest else []


def _answer(answers: Answers, region: int, by_box: bool) -> tuple[RegionOutput, int]:
    """What answers a prompt: the output, and which of the region's four candidates."""
    output = answers.by_box if by_box else answers.by_point
    is_box = torch.full((1,), by_box, device=output.iou.device)
    return output, int(route(is_box, output.iou[region, None]))


def _words(
    model: Tap, speech: Speech, batch: RegionBatch, output: RegionOutput, region: int, mask: int
) -> Words:
    token = speech.tokens_of(output)[region, mask]
    with evaluation_mode(model):
        (caption,) = speech.describe(model, token[None])
    return Words(next(iter(batch.phrases[region]), None), caption)


def _at_picture_size(logits: Tensor, batch: RegionBatch, image: int) -> NDArray[np.float32]:
    """Logits [R, R] of the frame, enlarged to the picture without its padding."""
    frame = batch.pixels.shape[-1]
    enlarged = F.interpolate(logits[None, None], (frame, frame), mode="bilinear")[0]
    return _cropped(enlarged, batch, image)[0].cpu().numpy()


def _cropped(values: Tensor, batch: RegionBatch, image: int) -> Tensor:
    """Values [C, S, S] of a frame, cut to the picture [C, H, W] inside it."""
    height, width = batch.sizes[image].tolist()
    return values[:, :height, :width]
