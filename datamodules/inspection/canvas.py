"""Colours, letters and masks on a picture: what a contact sheet is drawn with."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datamodules.palette import CARD, Colour

Area = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""


_GOLDEN = (5**0.5 - 1) / 2
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_DARK_ENOUGH = 0.16
"""White letters on a colour of this luminance have a contrast of 5."""
TINT = 0.28
"""Share of a region's colour inside its mask: its own colour must stay visible."""


def region_colour(number: int) -> Colour:
    """A colour for each number: neighbours are far apart, white letters are legible on all."""
    colour = np.array(colorsys.hls_to_rgb(0.58 + number * _GOLDEN, 0.45, 0.85))
    luminance = float(_LUMINANCE @ colour**2.2)
    red, green, blue = colour * min(1.0, _DARK_ENOUGH / luminance) ** (1 / 2.2) * 255
    return round(red), round(green), round(blue)


@lru_cache
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The letters of that height, in pixels."""
    return ImageFont.load_default(size)


def shortened(text: str, size: float, room: float) -> str:
    """As much of a text as there is room for, in pixels, and dots where it was cut."""
    if font(size).getlength(text) <= room:
        return text
    while text and font(size).getlength(f"{text}...") > room:
        text = text[:-1]
    return f"{text.rstrip()}..." if text else ""


def wrapped(text: str, size: float, room: float) -> list[str]:
    """Lines of whole words no wider than the room, in pixels; a longer word has its own line."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def paint_mask(
    picture: Image.Image, mask: NDArray[np.bool_], box: Area, colour: Colour, line: int
) -> None:
    """Tint what is inside a mask, and draw its outline.

    Args:
        picture: changed in place.
        mask: bool `[rows, columns]`, in pixels of the picture; it may reach beyond it.
        box: the mask's own, in pixels; nothing else is touched.
        colour: of the region.
        line: width of the outline, which lies inside, in pixels.
    """
    area = (
        max(0, box[0]),
        max(0, box[1]),
        min(picture.width, box[2]),
        min(picture.height, box[3]),
    )
    inside = mask[area[1] : area[3], area[0] : area[2]]
    shown = picture.crop(area)
    tinted = Image.blend(shown, Image.new("RGB", shown.size, colour), TINT)
    picture.paste(tinted, area, _stencil(inside))
    picture.paste(colour, area, _stencil(inside & ~_eroded(inside, line)))


def _eroded(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """What is left of a mask without its border of that width; the edges of the array are one."""
    for axis in (0, 1):
        wide = np.pad(mask, [(pixels, pixels) if each == axis else (0, 0) for each in (0, 1)])
        size = mask.shape[axis]
        mask = np.logical_and.reduce(
            [wide.take(range(step, step + size), axis) for step in (0, pixels, 2 * pixels)]
        )
    return mask


def _stencil(mask: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(np.uint8(255) * mask)


def badge(draw: ImageDraw.ImageDraw, place: Area, text: str, colour: Colour, size: float) -> None:
    """White letters on a colour, with a fine white edge."""
    draw.rounded_rectangle(place, (place[3] - place[1]) // 4, colour, CARD, 2)
    middle = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
    draw.text(middle, text, CARD, font(size), anchor="mm")


def free_place(
    region: Area, size: tuple[int, int], room: tuple[int, int], taken: list[Area]
) -> Area | None:
    """The first place at a region where a label of that size lies in the room and on no other."""
    left, top, right, bottom = region
    for x in (left, right - size[0]):
        for y in (top, top - size[1], bottom - size[1], bottom):
            corner = min(max(x, 0), room[0] - size[0]), min(max(y, 0), room[1] - size[1])
            place = (*corner, corner[0] + size[0], corner[1] + size[1])
            if min(corner) >= 0 and not any(_overlap(place, other) for other in taken):
                return place
    return None


def _overlap(one: Area, other: Area) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]
