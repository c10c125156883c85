"""From the bytes of a sample to a frame with its regions: a pure function of them and a seed.

What condemns a sample (`BadSampleError`): an image or annotation that cannot be read, sizes that
disagree, priors of the wrong shape or type, and, among the regions met until enough are drawn, a
corrupt mask or prior or phrases that are no texts: then nothing else that the sample says can be
trusted. What only costs a region: an empty mask, or a box without area or outside the image; such
regions are left out and counted, and so are blank and endless phrases. Regions of which too little
is visible after the crop are passed over, which is no fault.

Regions that are not met are not read, whatever they hold: which ones are met depends on the seed
alone, so a sample is condemned, or not, at the same places of the order in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.phrases import read_phrases
from datamodules.decoding.pictures import PAD_COLOUR, decode_picture, picture_size
from datamodules.decoding.placement import Placement, affine_of, draw_placement, place
from datamodules.decoding.rasterize import Rasterizer
from datamodules.decoding.resample import resample
from datamodules.order.draws import generator
from datamodules.shards.records import (
    Annotation,
    AnnotationRecord,
    RawSample,
    open_priors,
    read_annotation,
)
from tap_platform.config.model import TapConfig
from tap_platform.config.stream import StreamConfig

_REGION_STREAM = 1
"""Of the sample's draws; the placement's is 0."""
_LONGEST_REASON = 500
"""Characters of a reason, which may cite the sample."""


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
    """`[m, R, R]`; the box, where there is no mask."""
    has_mask: NDArray[np.bool_]
    """`[m]`: False where only the box is known."""
    boxes: NDArray[np.float32]
    """`[m, 4]` x0, y0, x1, y1, in pixels of the frame."""
    priors: NDArray[np.float32]
    """`[m, D]`, zero where there is none."""
    has_prior: NDArray[np.bool_]
    """`[m]`: whether the row of `priors` is not all zero; no embedding is."""
    concepts: NDArray[np.int64]
    """`[m]`: the category's number in the vocabulary, -1 if it has none."""
    phrases: list[tuple[str, ...]]
    """m entries: what is said of each region, one line a phrase; empty where nothing is."""
    dropped_regions: int
    """Faulty regions that were met and left out."""
    dropped_phrases: int
    """Blank or endless phrases of the m regions, which were left out."""


def decode_sample(
    raw: RawSample,
    seed: int,
    config: StreamConfig,
    frame: Frame,
    concepts: Mapping[str, int],
    *,
    training: bool,
    pixels: NDArray[np.uint8] | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> DecodedSample:
    """Decode a sample, place it in the frame and draw its regions.

    Args:
        raw: the sample's bytes.
        seed: its seed; every draw comes from it.
        config: regions to draw, the scale jitter, and what counts as a phrase.
        frame: the model's shapes.
        concepts: the vocabulary: number of each name.
        training: whether the scale is jittered; if not, the long side is the frame's.
        pixels: where to put the pixels, uint8 `[S, S, 3]`, contiguous; None makes an array.
        masks: where to put the masks, bool `[regions_per_image, R, R]`, contiguous: the first m are
            written; None makes an array.

    Raises:
        BadSampleError: if the sample cannot be used.
    """
    try:
        return _decode(raw, seed, config, frame, concepts, training, pixels, masks)
    except ValueError as error:
        raise BadSampleError(str(error)[:_LONGEST_REASON]) from error


def _decode(
    raw: RawSample,
    seed: int,
    config: StreamConfig,
    frame: Frame,
    concepts: Mapping[str, int],
    training: bool,
    pixels: NDArray[np.uint8] | None,
    masks: NDArray[np.bool_] | None,
) -> DecodedSample:
    record = read_annotation(raw.annotation)
    height, width = agreed_size(raw.image, record)
    priors = None
    if raw.priors is not None:
        priors = open_priors(raw.priors, len(record.regions), frame.concept_dim)
    if training:
        placement = draw_placement(height, width, frame.size, config.jitter, seed)
    else:
        placement = place(height, width, frame.size)
    order = generator(seed, _REGION_STREAM).permutation(len(record.regions)).tolist()
    if masks is None:
        wanted = min(config.regions_per_image, len(order))
        masks = np.empty((wanted, frame.mask_size, frame.mask_size), bool)
    affine = affine_of(placement, height, width, frame.size)
    rasterizer = Rasterizer(height, width, affine, frame.size, frame.mask_size)
    drawn = _draw_regions(record, order, rasterizer, config, masks)
    regions = [record.regions[number] for number in drawn.numbers]
    rows = _rows(priors, drawn.numbers, frame.concept_dim)
    phrases = read_phrases(regions, config.phrases)
    canvas = np.empty((frame.size, frame.size, 3), np.uint8) if pixels is None else pixels
    return DecodedSample(
        key=raw.key,
        seed=seed,
        pixels=canvas,
        size=_paint(raw.image, (height, width), placement, canvas),
        masks=masks[: len(regions)],
        has_mask=np.array([_segmentation(region) is not None for region in regions], bool),
        boxes=drawn.boxes,
        priors=rows,
        has_prior=np.asarray(rows.any(axis=1)),
        concepts=np.array([_concept(region, concepts) for region in regions], np.int64),
        phrases=phrases.of_regions,
        dropped_regions=drawn.dropped,
        dropped_phrases=phrases.dropped,
    )


def blank_sample(frame: Frame, seed: int = 0) -> DecodedSample:
    """An empty frame without a region: what stands in where a whole batch is bad."""
    return DecodedSample(
        key="",
        seed=seed,
        pixels=np.full((frame.size, frame.size, 3), PAD_COLOUR, np.uint8),
        size=(frame.size, frame.size),
        masks=np.zeros((0, frame.mask_size, frame.mask_size), bool),
        has_mask=np.zeros(0, bool),
        boxes=np.zeros((0, 4), np.float32),
        priors=np.zeros((0, frame.concept_dim), np.float32),
        has_prior=np.zeros(0, bool),
        concepts=np.zeros(0, np.int64),
        phrases=[],
        dropped_regions=0,
        dropped_phrases=0,
    )


def agreed_size(image: bytes, annotation: Annotation | AnnotationRecord) -> tuple[int, int]:
    """Height and width of an encoded image, in pixels.

    Raises:
        ValueError: if its header is broken, or its annotation tells another size.
    """
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
    _pad(canvas, high, wide)
    return high, wide


def _pad(canvas: NDArray[np.uint8], high: int, wide: int) -> None:
    """Whole rows of padding are copied at the speed of memory; single pixels are not."""
    padding = np.tile(np.array(PAD_COLOUR, np.uint8), canvas.shape[1])
    rows = canvas.reshape(len(canvas), -1)
    rows[high:] = padding
    rows[:high, 3 * wide :] = padding[3 * wide :]


class _DrawnRegions(NamedTuple):
    numbers: list[int]
    boxes: NDArray[np.float32]
    dropped: int


def _draw_regions(
    record: AnnotationRecord,
    order: list[int],
    rasterizer: Rasterizer,
    config: StreamConfig,
    masks: NDArray[np.bool_],
) -> _DrawnRegions:
    """Rasterize regions in the given order until there are enough."""
    limit = min(config.regions_per_image, len(order))
    boxes = np.empty((limit, 4), np.float32)
    numbers: list[int] = []
    dropped = 0
    while order and len(numbers) < limit:
        count = len(numbers)
        # No more than are still wanted: each of these would also be met one by one.
        met, order = order[: limit - count], order[limit - count :]
        stated = stated_boxes([record.regions[number] for number in met])
        inside = cover(stated, record)
        met = [number for number, good in zip(met, inside.tolist(), strict=True) if good]
        segmentations = [_segmentation(record.regions[number]) for number in met]
        drawing = rasterizer.draw_all(
            segmentations, stated[inside], masks[count:], config.min_region_pixels
        )
        numbers += [met[place] for place in drawing.drawn.tolist()]
        boxes[count : len(numbers)] = drawing.boxes
        dropped += len(inside) - len(met) + drawing.empty
    return _DrawnRegions(numbers, boxes[: len(numbers)], dropped)


def stated_boxes(regions: list[Any]) -> NDArray[np.float64]:
    """Left, top, width and height as the annotation states them, float64 `[regions, 4]`.

    Raises:
        ValueError: if one of them is not four numbers.
    """
    try:
        boxes = np.array([region["bbox"] for region in regions], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the annotation is not in SA-1B's layout: {error!r}") from error
    if boxes.shape != (len(regions), 4):
        raise ValueError("the annotation is not in SA-1B's layout: a bbox is not four numbers")
    return boxes


def _segmentation(region: dict[str, Any]) -> Any:
    return region.get("segmentation")


def _concept(region: dict[str, Any], concepts: Mapping[str, int]) -> int:
    name = region.get("category")
    return concepts.get(name, -1) if isinstance(name, str) else -1


def cover(
    boxes: NDArray[np.float64], annotation: Annotation | AnnotationRecord
) -> NDArray[np.bool_]:
    """Which boxes, float64 `[n, 4]`, cover something of their image."""
    left, top, width, height = boxes.T
    with np.errstate(over="ignore"):  # numbers beyond measure cover nothing, or everything
        across = np.minimum(left + width, annotation.width) - np.maximum(left, 0)
        down = np.minimum(top + height, annotation.height) - np.maximum(top, 0)
    return (across > 0) & (down > 0)


def _rows(priors: NDArray[Any] | None, numbers: list[int], width: int) -> NDArray[np.float32]:
    if priors is None:
        return np.zeros((len(numbers), width), np.float32)
    rows = priors[numbers].astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError("the priors hold NaN or infinity")
    return rows
