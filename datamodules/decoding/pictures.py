"""Encoded images to pixels. What a file says of itself is taken for a claim.

A JPEG is read by libjpeg-turbo and refused at its first warning: truncated or corrupt data would
otherwise become grey or garbage without a word. Damage that leaves a valid stream cannot be seen in
the file; the checksums of the shards tell it.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from datamodules.shards.records import image_extension

PAD_COLOUR = (123, 116, 103)
"""RGB of the frame where there is no picture: the mean colour of ImageNet, cut to integers."""
MAX_PIXELS = 80_000_000
"""Images with more pixels are taken for decompression bombs."""
MAX_SCANS = 100
"""Progressive JPEGs with more scans are taken for bombs: each may visit every pixel for a few
bytes. Encoders write about ten."""
_FACTORS = (1, 2, 4, 8)
"""Fractions that a JPEG is decoded at; those in between cost more than the full size."""
_KEPT = 4
"""A PNG that shrinks a lot is averaged first, to no less than so many times what is needed."""
_MARKER, _SCAN = 0xFF, b"\xff\xda"
_SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers of a JPEG: what begins a frame, and what has no length after it."""


def picture_size(data: bytes) -> tuple[int, int]:
    """Height and width of an encoded image, from its header.

    Raises:
        ValueError: if the header is broken, or tells a size that is too small or too large.
    """
    height, width = _jpeg_size(data) if image_extension(data) == "jpg" else _png_size(data)
    if min(height, width) < 2:
        raise ValueError(f"an image of {height} x {width} pixels shows nothing")
    if height * width > MAX_PIXELS:
        raise ValueError(f"an image of {height} x {width} pixels is above the limit, {MAX_PIXELS}")
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except (KeyError, ValueError) as error:  # KeyError: a colour space without a name
        raise ValueError(f"the header of the JPEG is broken: {error}") from error
    return height, width


def _png_size(data: bytes) -> tuple[int, int]:
    if data[8:16] != b"\0\0\0\rIHDR" or len(data) < 24:
        raise ValueError("the image cannot be decoded: its PNG has no header")
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def decode_picture(
    data: bytes, size: tuple[int, int], needed: tuple[float, float]
) -> NDArray[np.uint8]:
    """Decode an image, at a fraction of its size where that is cheaper and enough.

    Args:
        data: a JPEG or PNG of any colour space; transparency shows the pad colour.
        size: its height and width, in pixels, as `picture_size` tells them.
        needed: height and width below which it must not be decoded, in pixels.

    Returns:
        uint8 `[height / f, width / f, 3]`, RGB, rounded up. f is one of 1, 2, 4 and 8 for a JPEG.
        For a PNG each side has its own, above 1 only where 4 times what is needed remains.

    Raises:
        ValueError: if the image is broken.
    """
    down, across = size[0] / needed[0], size[1] / needed[1]
    if image_extension(data) == "jpg":
        shrink = max(min(down, across), 1)
        return _decode_jpeg(data, size, max(factor for factor in _FACTORS if factor <= shrink))
    return _decode_png(data, (max(int(across / _KEPT), 1), max(int(down / _KEPT), 1)))


def _decode_jpeg(data: bytes, size: tuple[int, int], factor: int) -> NDArray[np.uint8]:
    if not _is_sequential(data) and data.count(_SCAN) > MAX_SCANS:
        raise ValueError(f"the image cannot be decoded: a JPEG of more than {MAX_SCANS} scans")
    height, width = -(-size[0] // factor), -(-size[1] // factor)
    try:
        return simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except ValueError as error:
        raise ValueError(f"the image cannot be decoded: {error}") from error


def _is_sequential(data: bytes) -> bool:
    """Whether a JPEG's scans pay for every pixel in bytes: those of the progressive kind do not."""
    place = 2
    while place + 4 <= len(data) and data[place] == _MARKER:
        marker = data[place + 1]
        if marker in _FRAMES:
            return marker in _SEQUENTIAL
        if marker == _MARKER:  # a byte that fills the gap before a marker
            place += 1
        elif marker in _BARE:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _decode_png(data: bytes, factors: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        image = to_rgb(Image.open(io.BytesIO(data), formats=("PNG",)))
        return np.array(image if factors == (1, 1) else image.reduce(factors))
    except Exception as error:  # Pillow tells of broken files by many kinds of error
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
