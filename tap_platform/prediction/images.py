"""Any image that people have, as RGB pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from datamodules.decoding.pictures import MAX_PIXELS, to_rgb

Pixels = NDArray[np.uint8]
ImageLike = str | Path | Image.Image | NDArray[Any]

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
"""What is opened: pictures only, nothing that runs a program, as EPS does."""
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".jp2", ".j2k"}
)
"""Which files of a folder are taken for images."""


def read_image(image: ImageLike, channels: Literal["RGB", "BGR"] = "RGB") -> Pixels:
    """Read an image of any size and mode, turned as its EXIF data say.

    Args:
        image: a file, a Pillow image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of
            uint8 (0 to 255) or uint16 (0 to 65535).
        channels: the order of an array's colours; OpenCV reads BGR. Files need no such help.

    Returns:
        uint8 [H, W, 3], RGB. Of 16 bits the upper 8 are kept; where an image is transparent, it
        shows the colour that frames are padded with.

    Raises:
        ValueError: if it is no image, is broken, or is above the limit of 200 million pixels.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, channels)
    if isinstance(image, Image.Image):
        return _decoded(image, "the image")
    return _from_file(Path(image))


def find_images(places: Iterable[str | Path]) -> list[Path]:
    """The image files among files and folders, those of a folder (and its folders) by name.

    A file that is named is taken whatever its name ends with.

    Raises:
        ValueError: if a place does not exist, or a folder holds no image.
    """
    return [file for place in places for file in _files_of(Path(place))]


def _files_of(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        if not place.exists():
            raise ValueError(f"there is no image {place}")
        yield place
        return
    files = sorted(file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"the folder {place} holds no image ({' '.join(sorted(SUFFIXES))})")
    yield from files


def _from_file(path: Path) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise ValueError(_no_image(path)) from error
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(str(path))) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    with opened:
        return _decoded(opened, str(path))


def _no_image(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(24)
    if not start:
        return f"{path} is empty"
    kind = f"it starts with {start.decode('ascii', 'backslashreplace')!r}"
    return f"{path} is no image ({kind}); images are {', '.join(FORMATS)}"


def _too_large(what: str) -> str:
    return f"{what} has more than {MAX_PIXELS // 10**6} million pixels, the limit: shrink it first"


def _decoded(image: Image.Image, what: str) -> Pixels:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(_too_large(what))
    try:
        pixels: Pixels = np.array(to_rgb(ImageOps.exif_transpose(image)))
    except Exception as error:  # a broken file fails in as many ways as there are decoders
        raise ValueError(
            f"{what} is broken, or of a kind that Pillow cannot read: {error}"
        ) from error
    return pixels


def _from_array(array: NDArray[Any], channels: Literal["RGB", "BGR"]) -> Pixels:
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an image is an array of uint8 from 0 to 255, not of {array.dtype}")
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"an image has the shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], not"
            f" {list(array.shape)}"
        )
    if array.dtype == np.uint16:
        array = array >> 8
    pixels = array.astype(np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if channels == "BGR":
        pixels = np.concatenate((pixels[..., 2::-1], pixels[..., 3:]), axis=2)
    return _decoded(Image.fromarray(np.ascontiguousarray(pixels)), "the image")
