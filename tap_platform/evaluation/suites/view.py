"""One image, seen by a model once and asked many times."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from datamodules.vocabulary import Vocabulary
from tap_platform.evaluation.suites.ground_truth import ImageId, Place, Record
from tap_platform.models import RegionOutput, Tap
from tap_platform.objectives.prompts import BOX_LEFT_TOP, BOX_RIGHT_BOTTOM, FOREGROUND, PAD
from tap_platform.prediction.frames import frame_image
from tap_platform.prediction.images import Pixels, read_image

PROMPTS_AT_ONCE = 256
"""Prompts that one call of the decoder answers, as in the released evaluation."""
PIXELS_AT_ONCE = 1 << 25
"""How many pixels of enlarged masks are held at once: 128 MiB."""


class ImageView:
    """An image that a model has encoded."""

    def __init__(self, model: Tap, pixels: Pixels) -> None:
        """Encode an image.

        Args:
            model: in evaluation mode, on any device.
            pixels: uint8 [H, W, 3], RGB.
        """
        self.model = model
        self.size: tuple[int, int] = (pixels.shape[0], pixels.shape[1])
        self._frame = frame_image(pixels, model.config.image_size)
        self._device = model.pixel_mean.device
        frame = self._frame.pixels[None].to(self._device)
        self._embedding = model.encode(model.normalize(frame))

    def ask_boxes(self, boxes: NDArray[np.float32]) -> RegionOutput:
        """Answers to boxes, float32 [M, 4] xyxy in pixels of the image; M is at least 1."""
        return self._ask(torch.from_numpy(boxes).view(-1, 2, 2), (BOX_LEFT_TOP, BOX_RIGHT_BOTTOM))

    def ask_points(self, points: Tensor) -> RegionOutput:
        """Answers to one click each, float32 [M, 2] (x, y) in pixels of the image."""
        return self._ask(torch.stack((points, torch.zeros_like(points)), 1), (FOREGROUND, PAD))

    def _ask(self, places: Tensor, labels: tuple[int, int]) -> RegionOutput:
        scaled = places.to(self._device) * self._frame.scale
        meanings = torch.tensor(labels, device=self._device)
        parts = [
            self.model.decode(
                self._embedding,
                part,
                meanings.expand(len(part), 2),
                torch.zeros(len(part), dtype=torch.int64, device=self._device),
            )
            for part in scaled.split(PROMPTS_AT_ONCE)
        ]
        return RegionOutput(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def masks(self, logits: Tensor) -> Iterator[Tensor]:
        """Masks of the image's size from logits [M, R, R], in parts: bool [m, H, W]."""
        at_once = max(1, PIXELS_AT_ONCE // self._frame.pixels_per_mask())
        for part in logits.split(at_once):
            yield self._frame.masks_of_image(part) > 0

    def encoded_masks(self, logits: Tensor) -> list[Record]:
        """Masks of the image's size from logits [M, R, R], as COCO's run-length encoding."""
        return [mask for part in self.masks(logits) for mask in encode_masks(part)]


def encode_masks(masks: Tensor) -> list[Record]:
    """COCO's compressed run-length encoding, its counts as text, of bool [M, H, W]."""
    columns_first = masks.permute(1, 2, 0).cpu().numpy().astype(np.uint8)
    encoded: list[Record] = coco_mask.encode(np.asfortranarray(columns_first))
    return [{"size": each["size"], "counts": each["counts"].decode("ascii")} for each in encoded]


def read_pixels(place: Place, image_id: ImageId, expected: tuple[int, int] | None) -> Pixels:
    """The pixels of an image, uint8 [H, W, 3] RGB.

    Args:
        place: where it lies.
        image_id: its name in messages.
        expected: its height and width by the annotations; None where they do not say.

    Raises:
        ValueError: if it is missing, broken or of another size: the masks would not fit.
    """
    try:
        pixels = read_image(Image.open(io.BytesIO(place.read())))
    except (OSError, ValueError) as error:
        raise ValueError(f"image {image_id} cannot be evaluated: {place}: {error}") from error
    if expected is not None and pixels.shape[:2] != expected:
        raise ValueError(
            f"image {image_id} ({place}) has {pixels.shape[0]} x {pixels.shape[1]} pixels, its"
            f" annotations say {expected[0]} x {expected[1]}: are these its annotations?"
        )
    return pixels


def check_width(vocabulary: Vocabulary, model: Tap) -> None:
    """See that a vocabulary lies in a model's concept space.

    Raises:
        ValueError: if its embeddings are of another width.
    """
    width, wanted = vocabulary.embeddings.shape[1], model.config.concept_dim
    if width != wanted:
        raise ValueError(
            f"the concepts have embeddings of width {width}, the model's concept space {wanted}:"
            " give concepts that were embedded by the teacher of this model (--concepts)"
        )
