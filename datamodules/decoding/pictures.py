"""Encoded images to pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from datamodules.shards.records import image_extension

PAD_COLOUR = (123, 116, 103)
"""RGB of the frame where there is no picture: the mean colour of ImageNet, cut to integers."""
MAX_PIXELS = 200_000_000
"""Images with more pixels are taken for decompression bombs."""
_FACTORS = (1, 2, 4, 8)
"""Fractions that a JPEG is decoded at; those in between cost more than the full size."""


def picture_size(data: bytes) -> tuple[int, int]:
    """Height and width of an encoded image, from its header.

    Raises:
        ValueError: if the header is broken, or tells a size that is too small or too large.
    """
    if image_extension(data) == "jpg":
        height, width = _jpeg_size(data)
    else:
        width, height = _open(data).size
    if min(height, width) < 2:
        raise ValueError(f"an image of {height} x {width} pixels shows nothing")
    if height * width > MAX_PIXELS:
        raise ValueError(f"an image of {height} x {width} pixels is above the limit, {MAX_PIXELS}")
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ValueError(f"the header of the JPEG is broken: {error}") from error
    return height, width


def decode_picture(
    data: bytes, size: tuple[int, int], needed: tuple[float, float]
) -> NDArray[np.uint8]:
    """Decode an image, at a fraction of its size where that is cheaper and enough.

    Args:
        data: a JPEG or PNG of any colour space; transparency shows the pad colour.
        size: its height and width, in pixels.
        needed: height and width below which it must not be decoded, in pixels.

    Returns:
        uint8 `[height / f, width / f, 3]`, RGB, f one of 1, 2, 4 and 8, rounded up.

    Raises:
        ValueError: if the image is broken.
    """
    if image_extension(data) == "jpg":
        factor = max(f for f in _FACTORS if f == 1 or _covers(size, needed, f))
        try:
            return simplejpeg.decode_jpeg(
                data, min_height=-(-size[0] // factor), min_width=-(-size[1] // factor)
            )
        except ValueError:  # CMYK, or bytes that are odd but do no harm: Pillow tells which
            pass
    image = _open(data)
    try:
        return np.array(to_rgb(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the image cannot be decoded: {error}") from error


def _covers(size: tuple[int, int], needed: tuple[float, float], factor: int) -> bool:
    return size[0] / factor >= needed[0] and size[1] / factor >= needed[1]


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be decoded: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB: 16 bits keep the upper 8, transparency shows the pad colour."""
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.uint32)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*PAD_COLOUR, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return image.convert("RGB")
