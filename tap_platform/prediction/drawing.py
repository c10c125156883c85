"""A picture of a prediction: masks and prompts on the image, concepts and captions legible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from datamodules.palette import CARD, FAINT, INK, PAPER, PROMPT, RIGHT, WRONG, Colour
from tap_platform.objectives.prompts import Prompts
from tap_platform.prediction.images import Pixels
from tap_platform.prediction.records import prompt_record
from tap_platform.prediction.regions import Prediction

# White letters are legible on each of them.
COLOURS: tuple[Colour, ...] = (
    (0, 101, 178),
    (200, 40, 45),
    (22, 122, 60),
    (140, 60, 170),
    (178, 84, 0),
    (0, 116, 126),
    (200, 40, 120),
    (98, 96, 16),
    (70, 80, 200),
    (120, 62, 40),
)
LONGEST_LIST = 20
"""Regions told below the picture and labelled on it; the rest are only tinted."""

_LONG_SIDE = 960, 1600
_LEAST_WIDTH = 640
_MARGIN, _PADDING, _BADGE = 16, 6, 24
_SIZE, _LINE = 17, 25
_Box = tuple[int, int, int, int]


def draw_prediction(
    image: Pixels, found: Prediction, prompts: Prompts | None = None
) -> Image.Image:
    """Draw M regions on their image, and list below it what is said of each.

    The long side is brought between 960 and 1600 pixels, so that letters can be read beside small
    and large images alike.

    Args:
        image: uint8 [H, W, 3], RGB.
        found: its regions; the first ones are listed.
        prompts: what they answer, in pixels of the image, to be drawn too.
    """
    picture = _shown(image)
    scale = picture.width / image.shape[1]
    for number in np.argsort(-found.masks.sum((1, 2)), kind="stable"):
        _paint(picture, found.masks[number], found.boxes[number], _colour(int(number)))
    draw = ImageDraw.Draw(picture)
    if prompts is not None:
        for number in range(len(found)):
            _draw_prompt(draw, prompt_record(prompts, number), scale)
    _label(draw, picture.size, found, scale)
    legend = _legend(found, max(picture.width, _LEAST_WIDTH))
    page = Image.new("RGB", (legend.width, picture.height + legend.height), PAPER)
    page.paste(picture, ((page.width - picture.width) // 2, 0))
    page.paste(legend, (0, picture.height))
    return page


def title(found: Prediction, number: int) -> str:
    """The concept of a region with its probability, as "dog 93%"; "region 2" if it is unnamed."""
    if found.concepts is None or found.concept_scores is None:
        return f"region {number + 1}"
    return f"{found.concepts[number]} {found.concept_scores[number]:.0%}"


def _colour(number: int) -> Colour:
    return COLOURS[number % len(COLOURS)]


def _font(size: float = _SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shown(image: Pixels) -> Image.Image:
    long_side = max(image.shape[:2])
    scale = min(max(long_side, _LONG_SIDE[0]), _LONG_SIDE[1]) / long_side
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)


def _paint(
    picture: Image.Image, mask: NDArray[np.bool_], box: NDArray[np.float32], colour: Colour
) -> None:
    """Tint and outline what is inside a mask; nothing beyond its box is touched."""
    height, width = mask.shape
    across, down = picture.width / width, picture.height / height
    left, top = (max(int(edge) - 2, 0) for edge in (box[0] * across, box[1] * down))
    right = min(int(box[2] * across) + 3, picture.width)
    bottom = min(int(box[3] * down) + 3, picture.height)
    area = left, top, right, bottom
    stencil = Image.fromarray(np.uint8(255) * mask).resize(
        (right - left, bottom - top),
        Image.Resampling.BILINEAR,
        box=(left / across, top / down, min(right / across, width), min(bottom / down, height)),
    )
    stencil = stencil.point(lambda value: 255 * (value > 127))
    outline = ImageChops.difference(
        stencil.filter(ImageFilter.MaxFilter(3)), stencil.filter(ImageFilter.MinFilter(3))
    )
    shown = picture.crop(area)
    tinted = Image.blend(shown, Image.new("RGB", shown.size, colour), 0.45)
    picture.paste(tinted, area, stencil)
    picture.paste(colour, area, outline)


def _draw_prompt(draw: ImageDraw.ImageDraw, record: dict[str, Any], scale: float) -> None:
    if "box" in record:
        left, top, right, bottom = (value * scale for value in record["box"])
        for grown, colour, width in ((2, CARD, 5), (1, PROMPT, 3)):
            corners = (left - grown, top - grown, right + grown, bottom + grown)
            draw.rectangle(corners, outline=colour, width=width)
    for x, y, label in record.get("points", []):
        place = (x + 0.5) * scale, (y + 0.5) * scale
        draw.circle(place, 9, CARD)
        draw.circle(place, 7, RIGHT if label else WRONG)
        draw.text(place, "+" if label else "-", CARD, _font(14), anchor="mm")


def _label(
    draw: ImageDraw.ImageDraw, room: tuple[int, int], found: Prediction, scale: float
) -> None:
    """Write number and concept at each listed region, or its number alone, where there is room."""
    taken: list[_Box] = []
    for number in range(min(len(found), LONGEST_LIST)):
        region = found.boxes[number] * scale
        if not region.any():
            continue
        texts = [f"{number + 1}  {title(found, number)}", f"{number + 1}"]
        for text in texts if found.concepts is not None else texts[1:]:
            size = int(draw.textlength(text, _font())) + 2 * _PADDING, _BADGE
            place = _free_place(region, size, room, taken)
            if place is not None:
                taken.append(place)
                _badge(draw, place, text, _colour(number))
                break


def _free_place(
    region: NDArray[np.float32], size: tuple[int, int], room: tuple[int, int], taken: list[_Box]
) -> _Box | None:
    """The first place near a region where a label of a size lies on the picture and on no other."""
    for x, y in _corners(region, size):
        left = min(max(x, 0), room[0] - size[0])
        top = min(max(y, 0), room[1] - size[1])
        place = left, top, left + size[0], top + size[1]
        if min(left, top) >= 0 and not any(_overlap(place, other) for other in taken):
            return place
    return None


def _corners(region: NDArray[np.float32], size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Above, inside and below a region, at its left, and then at its right."""
    left, top, right, bottom = (int(value) for value in region)
    for x in (left, right - size[0]):
        for y in (top - size[1], top, bottom, bottom - size[1]):
            yield x, y


def _overlap(one: _Box, other: _Box) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]


def _badge(draw: ImageDraw.ImageDraw, place: _Box, text: str, colour: Colour) -> None:
    draw.rounded_rectangle(place, 5, colour, CARD, 1)
    middle = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
    draw.text(middle, text, CARD, _font(), anchor="mm")


def _legend(found: Prediction, width: int) -> Image.Image:
    """The list below the picture."""
    rows = [_row(found, number, width) for number in range(min(len(found), LONGEST_LIST))]
    more = len(found) - len(rows)
    closing = f"and {more} more" if more else "" if len(found) else "no region found"
    height = sum(row.height for row in rows) + 2 * _MARGIN + (_LINE if closing else 0)
    legend = Image.new("RGB", (width, height), PAPER)
    top = _MARGIN
    for row in rows:
        legend.paste(row, (0, top))
        top += row.height
    ImageDraw.Draw(legend).text((_MARGIN, top), closing, FAINT, _font())
    return legend


def _row(found: Prediction, number: int, width: int) -> Image.Image:
    """What is said of one region: number, concept, scores, and the caption in as many lines."""
    caption = "" if found.captions is None else str(found.captions[number])
    indent = 2 * _MARGIN + 2 * _BADGE
    lines = _wrapped(caption, width - indent - _MARGIN)
    row = Image.new("RGB", (width, _LINE * (1 + len(lines)) + _PADDING), PAPER)
    draw = ImageDraw.Draw(row)
    _badge(draw, (_MARGIN, 0, _MARGIN + 2 * _BADGE, _BADGE), str(number + 1), _colour(number))
    middle = _BADGE / 2
    heading = title(found, number)
    draw.text((indent, middle), heading, INK, _font(), anchor="lm")
    empty = "" if found.masks[number].any() else ", empty"
    scores = f"mask score {found.iou[number]:.2f}{empty}"
    right = indent + draw.textlength(heading, _font()) + _MARGIN
    draw.text((right, middle), scores, FAINT, _font(), anchor="lm")
    for line, text in enumerate(lines, start=1):
        draw.text((indent, line * _LINE), text, INK, _font())
    return row


def _wrapped(text: str, room: int) -> list[str]:
    """Lines of whole words no wider than the room, in pixels; a longer word has its own line."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font().getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
