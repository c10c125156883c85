"""From the bytes of a sample to a frame with its regions: a pure function of them and a seed.

What condemns a sample (`BadSampleError`): an image or annotation that cannot be read, sizes that
disagree, priors that are broken, of the wrong shape or not finite, and a corrupt mask among the
regions drawn: then nothing else that the sample says can be trusted. What only costs a region: an
empty mask, or a box without area or outside the image; such regions are left out and counted.
Regions of which too little is visible after the crop are passed over, which is no fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.pictures import PAD_COLOUR, decode_picture, picture_size
from datamodules.decoding.rasterize import Affine, EmptyMaskError, Rasterizer
from datamodules.decoding.resample import resample
from datamodules.order.draws import generator
from datamodules.shards.records import (
    Annotation,
    RawSample,
    Region,
    decode_annotation,
    decode_priors,
)
from tap_platform.config.data import ScaleJitterConfig, StreamConfig
from tap_platform.config.model import TapConfig

_JITTER_STREAM, _REGION_STREAM = 0, 1


class BadSampleError(ValueError):
    """A sample that cannot be used; the message is the reason, without the sample's name."""


class Frame(NamedTuple):
    """The shapes that a model wants."""

    size: int
    """S: side of the square input, in pixels."""
    mask_size: int
    """R: side of the target masks, in cells."""
    concept_dim: int
    """D: width of the priors."""

    @classmethod
    def of(cls, config: TapConfig) -> Frame:
        """The frame of a model."""
        return cls(config.image_size, config.mask_size, config.concept_dim)


@dataclass(slots=True)
class DecodedSample:
    """A frame with its m regions, in numpy."""

    key: str
    seed: int
    pixels: NDArray[np.uint8]
    """`[S, S, 3]` RGB."""
    size: tuple[int, int]
    """Height and width of the picture inside the frame, in pixels."""
    masks: NDArray[np.bool_]
    """`[m, R, R]`."""
    boxes: NDArray[np.float32]
    """`[m, 4]` x0, y0, x1, y1, in pixels of the frame."""
    priors: NDArray[np.float32]
    """`[m, D]`, zero where there is none."""
    has_prior: NDArray[np.bool_]
    """`[m]`."""
    concepts: NDArray[np.int64]
    """`[m]`: the category's number in the vocabulary, -1 if it has none."""
    dropped_regions: int
    """Faulty regions that were met and left out."""


class Placement(NamedTuple):
    """Where the picture lies in the frame: resized, cut, mirrored or not, at the top left."""

    height: int
    """Height of the whole resized picture, in pixels."""
    width: int
    """Its width."""
    left: int
    """Its columns that are cut off before the frame."""
    top: int
    """Its rows that are cut off before the frame."""
    mirrored: bool

    def visible(self, frame_size: int) -> tuple[int, int]:
        """Height and width of the part inside the frame, in pixels."""
        return min(self.height - self.top, frame_size), min(self.width - self.left, frame_size)


def place(height: int, width: int, frame_size: int) -> Placement:
    """Fit a picture in the frame: its long side is the frame's, nothing is drawn by chance."""
    return _resized(height, width, frame_size)


def draw_placement(
    height: int, width: int, frame_size: int, jitter: ScaleJitterConfig, seed: int
) -> Placement:
    """Large scale jitter: the long side is the frame's times a factor, the crop is anywhere.

    Args:
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        frame_size: side of the frame, in pixels.
        jitter: range of the factor, and how often the picture is mirrored.
        seed: the sample's seed.
    """
    draws = generator(seed, _JITTER_STREAM)
    long_side = frame_size * draws.uniform(jitter.minimum, jitter.maximum)
    whole = _resized(height, width, long_side)
    across, down, mirror = draws.random(3)
    return whole._replace(
        left=int(across * (max(0, whole.width - frame_size) + 1)),
        top=int(down * (max(0, whole.height - frame_size) + 1)),
        mirrored=bool(mirror < jitter.flip_probability),
    )


def _resized(height: int, width: int, long_side: float) -> Placement:
    scale = long_side / max(height, width)
    return Placement(
        max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)), 0, 0, False
    )


def affine_of(placement: Placement, height: int, width: int, frame_size: int) -> Affine:
    """From pixels of the image to pixels of the frame, exactly as the pixels are resampled."""
    scale_x, scale_y = placement.width / width, placement.height / height
    if placement.mirrored:
        visible_width = placement.visible(frame_size)[1]
        return Affine(-scale_x, scale_y, visible_width + placement.left, -placement.top)
    return Affine(scale_x, scale_y, -placement.left, -placement.top)


def decode_sample(
    raw: RawSample,
    seed: int,
    config: StreamConfig,
    frame: Frame,
    concepts: Mapping[str, int],
    *,
    training: bool,
    pixels: NDArray[np.uint8] | None = None,
) -> DecodedSample:
    """Decode a sample, place it in the frame and draw its regions.

    Args:
        raw: the sample's bytes.
        seed: its seed; every draw comes from it.
        config: regions to draw, and the scale jitter.
        frame: the model's shapes.
        concepts: the vocabulary: number of each name.
        training: whether the scale is jittered; if not, the long side is the frame's.
        pixels: where to put the pixels, uint8 `[S, S, 3]`; None makes an array.

    Raises:
        BadSampleError: if the sample cannot be used.
    """
    try:
        return _decode(raw, seed, config, frame, concepts, training, pixels)
    except ValueError as error:
        raise BadSampleError(str(error)) from error


def _decode(
    raw: RawSample,
    seed: int,
    config: StreamConfig,
    frame: Frame,
    concepts: Mapping[str, int],
    training: bool,
    pixels: NDArray[np.uint8] | None,
) -> DecodedSample:
    annotation = decode_annotation(raw.annotation)
    height, width = _agreed_size(raw.image, annotation)
    priors = None
    if raw.priors is not None:
        priors = decode_priors(raw.priors, len(annotation.regions), frame.concept_dim)
    if training:
        placement = draw_placement(height, width, frame.size, config.jitter, seed)
    else:
        placement = place(height, width, frame.size)
    order = generator(seed, _REGION_STREAM).permutation(len(annotation.regions))
    affine = affine_of(placement, height, width, frame.size)
    rasterizer = Rasterizer(height, width, affine, frame.size, frame.mask_size)
    drawn = _draw_regions(annotation, order.tolist(), rasterizer, config, frame)
    canvas = np.empty((frame.size, frame.size, 3), np.uint8) if pixels is None else pixels
    names = [annotation.regions[number].category for number in drawn.numbers]
    return DecodedSample(
        key=raw.key,
        seed=seed,
        pixels=canvas,
        size=_paint(raw.image, (height, width), placement, canvas),
        masks=drawn.masks,
        boxes=drawn.boxes,
        priors=_rows(priors, drawn.numbers, frame.concept_dim),
        has_prior=np.full(len(names), priors is not None),
        concepts=np.array([concepts.get(name or "", -1) for name in names], np.int64),
        dropped_regions=drawn.dropped,
    )


def blank_sample(frame: Frame, seed: int = 0) -> DecodedSample:
    """An empty frame without a region: what stands in where a whole batch is bad."""
    return DecodedSample(
        key="",
        seed=seed,
        pixels=np.full((frame.size, frame.size, 3), PAD_COLOUR, np.uint8),
        size=(frame.size, frame.size),
        masks=np.zeros((0, frame.mask_size, frame.mask_size), bool),
        boxes=np.zeros((0, 4), np.float32),
        priors=np.zeros((0, frame.concept_dim), np.float32),
        has_prior=np.zeros(0, bool),
        concepts=np.zeros(0, np.int64),
        dropped_regions=0,
    )


def _agreed_size(image: bytes, annotation: Annotation) -> tuple[int, int]:
    height, width = picture_size(image)
    if (height, width) != (annotation.height, annotation.width):
        raise ValueError(
            f"the image has {height} x {width} pixels,"
            f" its annotation says {annotation.height} x {annotation.width}"
        )
    return height, width


def _paint(
    image: bytes, size: tuple[int, int], placement: Placement, canvas: NDArray[np.uint8]
) -> tuple[int, int]:
    """Resample the visible part to the top left of the canvas; returns its height and width."""
    high, wide = placement.visible(len(canvas))
    crop = (
        placement.left / placement.width,
        placement.top / placement.height,
        (placement.left + wide) / placement.width,
        (placement.top + high) / placement.height,
    )
    picture = decode_picture(image, size, needed=(placement.height, placement.width))
    resample(picture, crop, (high, wide), canvas, placement.mirrored)
    canvas[high:] = PAD_COLOUR
    canvas[:high, wide:] = PAD_COLOUR
    return high, wide


class _DrawnRegions(NamedTuple):
    numbers: list[int]
    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    dropped: int


def _draw_regions(
    annotation: Annotation,
    order: list[int],
    rasterizer: Rasterizer,
    config: StreamConfig,
    frame: Frame,
) -> _DrawnRegions:
    """Rasterize regions in the given order until there are enough."""
    limit = min(config.regions_per_image, len(order))
    masks = np.zeros((limit, frame.mask_size, frame.mask_size), bool)
    boxes = np.empty((limit, 4), np.float32)
    numbers: list[int] = []
    dropped = 0
    for number in order:
        if len(numbers) == limit:
            break
        region = annotation.regions[number]
        try:
            _check_box(region, annotation)
            box = rasterizer.draw(
                region.segmentation, masks[len(numbers)], min_pixels=config.min_region_pixels
            )
        except EmptyMaskError:
            dropped += 1
            continue
        if box is not None:
            boxes[len(numbers)] = box
            numbers.append(number)
    return _DrawnRegions(numbers, masks[: len(numbers)], boxes[: len(numbers)], dropped)


def _check_box(region: Region, annotation: Annotation) -> None:
    left, top, width, height = region.box
    across = min(left + width, annotation.width) - max(left, 0)
    down = min(top + height, annotation.height) - max(top, 0)
    if not (across > 0 and down > 0):
        raise EmptyMaskError("the box covers no pixel of the image")


def _rows(priors: NDArray[Any] | None, numbers: list[int], width: int) -> NDArray[np.float32]:
    if priors is None:
        return np.zeros((len(numbers), width), np.float32)
    return priors[numbers].astype(np.float32)
