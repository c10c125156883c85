"""The picture that a teacher is given of a region: cut out, resized, on an empty canvas.

Exactly, for a region of an image whose canvas is a square of S pixels of one colour:

1. The box is the tight box of the mask, in whole pixels; that of a region without a mask is its own
   box, rounded outwards. With `context` c it grows by `c * width` to the left and to the right, by
   `c * height` up and down, rounded outwards; what is outside the image is cut off.
2. The box is cut out of the image at its full size. Pixels that are not the mask's become the
   canvas colour, unless the background is kept. A region without a mask keeps all of its box.
3. The crop is resized by Pillow's filter of that name, which widens where it shrinks. `aspect`: by
   `S / max(width, height)`, sides rounded half up, at least 1 pixel; `stretch`: to S x S.
4. It is pasted at `((S - width) // 2, (S - height) // 2)`.

Filter weights sum to 1, so blanking before the resize is the same as laying the crop over the
canvas by the share of each pixel that the mask covers.

Source: Tokenize Anything via Prompting, section 3.1; what it leaves open is `PriorsConfig`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.decoding.compiled import compiled
from datamodules.decoding.decode import agreed_size
from datamodules.decoding.pictures import decode_picture
from datamodules.decoding.run_lengths import run_lengths
from datamodules.shards.records import RawSample, Region, decode_annotation

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}


class CropRule(NamedTuple):
    """How a region becomes a picture. `PriorsConfig` tells what each choice means."""

    size: int
    """S: side of the canvas, in pixels."""
    colour: tuple[int, int, int]
    """RGB of the empty canvas, 0 to 255."""
    context: float
    keep_background: bool
    fit: str
    interpolation: str


class _Box(NamedTuple):
    """Whole pixels; right and bottom are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int


def crop_regions(raw: RawSample, rule: CropRule) -> list[NDArray[np.uint8] | None]:
    """The pictures of a sample's regions.

    Args:
        raw: the sample's bytes.
        rule: how to make them.

    Returns:
        For each annotation, in order, uint8 `[S, S, 3]` RGB; None where there is nothing to show:
        a mask that is empty or broken, or a box outside the image.

    Raises:
        ValueError: if the image or the annotation is broken, or they disagree on the size.
    """
    annotation = decode_annotation(raw.annotation)
    size = agreed_size(raw.image, annotation)
    pixels = decode_picture(raw.image, size, needed=size)
    return [crop_region(pixels, region, rule) for region in annotation.regions]


def crop_region(
    pixels: NDArray[np.uint8], region: Region, rule: CropRule
) -> NDArray[np.uint8] | None:
    """The picture of one region.

    Args:
        pixels: the image, uint8 `[height, width, 3]` RGB.
        region: one of its regions.
        rule: how to make it.

    Returns:
        uint8 `[S, S, 3]` RGB, or None where there is nothing to show.
    """
    height, width = pixels.shape[:2]
    runs = None
    if region.segmentation is not None:
        try:
            runs = run_lengths(region.segmentation, height, width)
        except ValueError:
            return None
    box = _box_of(region) if runs is None else _Box(*_bounds(runs, height))
    box = _widened(box, rule.context, height, width)
    if box.left >= box.right or box.top >= box.bottom:
        return None
    crop = pixels[box.top : box.bottom, box.left : box.right]
    if runs is not None and not rule.keep_background:
        masked = np.empty(crop.shape, np.uint8)
        masked[:] = rule.colour
        _copy_runs(runs, pixels, box, masked)
        crop = masked
    return _on_canvas(crop, rule)


def _box_of(region: Region) -> _Box:
    left, top, width, height = region.box
    if not all(map(math.isfinite, region.box)):
        return _Box(0, 0, 0, 0)
    return _Box(math.floor(left), math.floor(top), math.ceil(left + width), math.ceil(top + height))


def _widened(box: _Box, context: float, height: int, width: int) -> _Box:
    """A box with its surroundings, inside the image."""
    across = math.ceil(context * (box.right - box.left))
    down = math.ceil(context * (box.bottom - box.top))
    return _Box(
        max(0, box.left - across),
        max(0, box.top - down),
        min(width, box.right + across),
        min(height, box.bottom + down),
    )


def _on_canvas(crop: NDArray[np.uint8], rule: CropRule) -> NDArray[np.uint8]:
    size = rule.size
    height, width = (size, size) if rule.fit == "stretch" else _fitted(crop.shape[:2], size)
    picture = Image.fromarray(crop).resize((width, height), _FILTERS[rule.interpolation])
    left, top = (size - width) // 2, (size - height) // 2
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = rule.colour
    canvas[top : top + height, left : left + width] = np.asarray(picture)
    return canvas


def _fitted(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Height and width at which the long side is `size`."""
    scale = size / max(shape)
    height, width = (max(1, int(side * scale + 0.5)) for side in shape)
    return height, width


@compiled
def _bounds(runs: Any, height: int) -> tuple[int, int, int, int]:
    """Tight box of a mask: left, top, right, bottom; all zero if it is empty."""
    left, top, right, bottom = -1, height, 0, 0
    start = 0
    for run in range(len(runs)):
        end = start + runs[run]
        if run % 2 == 1 and end > start:
            first, last = start // height, (end - 1) // height
            if left < 0:
                left = first
            right = last + 1
            if first == last:
                top = min(top, start % height)
                bottom = max(bottom, (end - 1) % height + 1)
            else:
                top = 0
                bottom = height
        start = end
    if left < 0:
        return 0, 0, 0, 0
    return left, top, right, bottom


@compiled
def _copy_runs(runs: Any, pixels: Any, box: Any, crop: Any) -> None:
    """Copy a mask's pixels from the image to the crop, whose box holds the whole mask."""
    height = pixels.shape[0]
    start = 0
    for run in range(len(runs)):
        length = runs[run]
        column = start // height
        row = start - column * height
        start += length
        if run % 2 == 0:
            continue
        while length > 0:
            end = min(height, row + length)
            for y in range(row, end):
                for channel in range(3):
                    crop[y - box[1], column - box[0], channel] = pixels[y, column, channel]
            length -= end - row
            column += 1
            row = 0
