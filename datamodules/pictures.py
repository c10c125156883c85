"""Encoded images to pixels: only the part that is asked for, at the size that is asked for."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from datamodules.records import image_extension

PAD_COLOUR = (123, 116, 103)
"""RGB of the frame where there is no picture: the mean colour of ImageNet, cut to integers."""
MAX_PIXELS = 200_000_000
"""Images with more pixels are taken for decompression bombs."""


class Resampling(NamedTuple):
    """A rectangle of the picture that is drawn at another size."""

    crop: tuple[float, float, float, float]
    """Left, top, right and bottom as shares of the picture's width and height, in [0, 1]."""
    height: int
    """Height to draw it at, in pixels."""
    width: int
    """Width to draw it at, in pixels."""


def picture_size(data: bytes) -> tuple[int, int]:
    """Height and width of an encoded image, from its header.

    Raises:
        ValueError: if the header is broken, or tells a size that is too small or too large.
    """
    if image_extension(data) == "jpg":
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    else:
        width, height = _open(data).size
    if min(height, width) < 2:
        raise ValueError(f"an image of {height} x {width} pixels shows nothing")
    if height * width > MAX_PIXELS:
        raise ValueError(f"an image of {height} x {width} pixels is above the limit, {MAX_PIXELS}")
    return height, width


def resample(data: bytes, size: tuple[int, int], part: Resampling) -> NDArray[np.uint8]:
    """Decode an image and resample a part of it, antialiased.

    Args:
        data: a JPEG or PNG of any colour space; transparency shows the pad colour.
        size: its height and width, in pixels.
        part: the part, and the size to draw it at.

    Returns:
        uint8 `[height, width, 3]`, RGB.

    Raises:
        ValueError: if the image is broken.
    """
    left, top, right, bottom = part.crop
    needed = (part.height / (bottom - top), part.width / (right - left))
    image = _decode(data, size, needed)
    width, height = image.size
    box = (left * width, top * height, right * width, bottom * height)
    target = (part.width, part.height)
    return np.asarray(image.resize(target, Image.Resampling.BILINEAR, box=box))


def _decode(data: bytes, size: tuple[int, int], needed: tuple[float, float]) -> Image.Image:
    if image_extension(data) == "jpg":
        # Powers of two alone are cheaper than the full size.
        factor = max(f for f in (1, 2, 4, 8) if f == 1 or _covers(size, needed, f))
        try:
            pixels = simplejpeg.decode_jpeg(
                data, min_height=-(-size[0] // factor), min_width=-(-size[1] // factor)
            )
            return Image.fromarray(pixels)
        except ValueError:  # CMYK, or bytes that are odd but do no harm: Pillow tells which
            pass
    return _to_rgb(_open(data))


def _covers(size: tuple[int, int], needed: tuple[float, float], factor: int) -> bool:
    return size[0] / factor >= needed[0] and size[1] / factor >= needed[1]


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the image cannot be decoded: {error}") from error
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.uint32)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, (*PAD_COLOUR, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return image.convert("RGB")
