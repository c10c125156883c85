"""A contact sheet: samples of a data set with their masks, boxes, names and phrases."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from datamodules.decoding.decode import agreed_size
from datamodules.decoding.pictures import decode_picture
from datamodules.decoding.placement import affine_of, place
from datamodules.decoding.rasterize import EmptyMaskError, Rasterizer
from datamodules.inspection.canvas import (
    Area,
    badge,
    font,
    free_place,
    paint_mask,
    region_colour,
    shortened,
    wrapped,
)
from datamodules.inspection.data_set import Part, Place, place_of, spread
from datamodules.palette import CARD, EDGE, FAINT, INK, PAPER, WRONG
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import BadSample, Region, decode_annotation

LISTED = 6
"""Regions of a sample that are numbered and told, the largest; the others are only drawn."""

# Everything is drawn twice as large and shrunk at the end, for smooth lines.
_ZOOM = 2
_COLUMNS = 3
_CARD_WIDTH = 540 * _ZOOM
_MARGIN, _PADDING = 18 * _ZOOM, 14 * _ZOOM
_LINE, _BADGE = 22 * _ZOOM, 20 * _ZOOM
_SIZE, _SMALL = 14.0 * _ZOOM, 12.0 * _ZOOM
_OUTLINE = 2 * _ZOOM


def contact_sheet(path: str, parts: Sequence[Part], pictures: int) -> Image.Image:
    """Draw samples spread over a data set, always the same ones.

    A sample that cannot be read is a card that tells why.

    Args:
        path: what to call the data set.
        parts: its folders of shards.
        pictures: samples to draw.

    Returns:
        RGB, cards in rows of three, 1710 pixels wide where there are as many.

    Raises:
        ValueError: if the data set is empty.
    """
    total = sum(len(part.index) for part in parts)
    if not total:
        raise ValueError(f"{path} holds no sample to draw")
    chosen = [place_of(parts, position) for position in spread(total, pictures)]
    heading = f"{path}: {len(chosen)} of {total:,} samples"
    return _laid_out([_card(each) for each in chosen], heading)


def _laid_out(cards: Sequence[Image.Image], heading: str) -> Image.Image:
    """Cards in rows; a row is as high as its highest card."""
    columns = min(_COLUMNS, len(cards))
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    width = columns * (_CARD_WIDTH + _MARGIN) + _MARGIN
    height = sum(max(card.height for card in row) + _MARGIN for row in rows)
    sheet = Image.new("RGB", (width, height + _LINE + 2 * _MARGIN), PAPER)
    title = shortened(heading, _SIZE, width - 2 * _MARGIN)
    ImageDraw.Draw(sheet).text((_MARGIN, _MARGIN), title, INK, font(_SIZE))
    top = _LINE + 2 * _MARGIN
    for row in rows:
        for column, card in enumerate(row):
            sheet.paste(card, (_MARGIN + column * (_CARD_WIDTH + _MARGIN), top))
        top += max(card.height for card in row) + _MARGIN
    return sheet.resize((width // _ZOOM, sheet.height // _ZOOM), Image.Resampling.LANCZOS)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A region as it lies on the card's picture."""

    region: Region
    number: int
    """Its place in the annotation."""
    box: Area
    mask: NDArray[np.bool_] | None
    """bool `[S, S]`, S the long side of the picture; None where there is nothing to see."""
    tight: Area
    """The mask's own box."""


def _card(where: Place) -> Image.Image:
    """One sample: its picture with its regions, and what is said of the largest."""
    with ShardReader(where.part.index) as reader:
        raw = reader.read(where.shard, where.number)
    name = f"{where.part.name} / {raw.key}"
    if isinstance(raw, BadSample):
        return _refusal(name, raw.reason)
    try:
        annotation = decode_annotation(raw.annotation)
        height, width = agreed_size(raw.image, annotation)
        picture = _fitted(raw.image, (height, width))
        regions = [
            _placed(each, number, (height, width), max(picture.size))
            for number, each in enumerate(annotation.regions)
        ]
    except ValueError as error:
        return _refusal(name, str(error))
    regions.sort(key=lambda shown: shown.region.area, reverse=True)
    _draw_regions(picture, regions)
    count = len(regions)
    facts = f"{width} x {height}, {count} region{'' if count == 1 else 's'}"
    return _framed(picture, name, facts, regions)


def _fitted(image: bytes, size: tuple[int, int]) -> Image.Image:
    """The picture, its long side that of the card's inside."""
    placement = place(*size, _CARD_WIDTH - 2 * _PADDING)
    pixels = decode_picture(image, size, needed=(placement.height, placement.width))
    fitted = placement.width, placement.height
    return Image.fromarray(pixels).resize(fitted, Image.Resampling.BICUBIC)


def _placed(region: Region, number: int, size: tuple[int, int], side: int) -> _Shown:
    """A region of an image of that height and width, in pixels of a picture of that long side."""
    affine = affine_of(place(*size, side), *size, side)
    left, top, wide, high = region.box
    corners = (left, top, left + wide, top + high)
    scales = (affine.scale_x, affine.scale_y) * 2
    x0, y0, x1, y1 = (_pixel(edge * scale) for edge, scale in zip(corners, scales, strict=True))
    box = x0, y0, max(x0, x1), max(y0, y1)
    tight = None
    if region.segmentation is not None:
        mask = np.zeros((side, side), bool)
        with suppress(EmptyMaskError):
            tight = Rasterizer(*size, affine, side, side).draw(region.segmentation, mask)
    if tight is None:
        return _Shown(region, number, box, None, box)
    first, last = np.floor(tight[:2]).astype(int), np.ceil(tight[2:]).astype(int)
    return _Shown(region, number, box, mask, (*first.tolist(), *last.tolist()))


def _pixel(edge: float) -> int:
    """An edge in whole pixels; one far outside stays outside, wherever a file says it lies."""
    return round(min(max(edge, -_CARD_WIDTH), 2 * _CARD_WIDTH))


def _draw_regions(picture: Image.Image, regions: Sequence[_Shown]) -> None:
    """Masks and boxes, the largest first, and labels on top of all of them."""
    for shown in regions:
        if shown.mask is not None:
            colour = region_colour(shown.number)
            paint_mask(picture, shown.mask, shown.tight, colour, _OUTLINE)
    draw = ImageDraw.Draw(picture)
    for shown in regions:
        draw.rectangle(shown.box, outline=region_colour(shown.number), width=_ZOOM)
    taken: list[Area] = []
    for shown in regions[:LISTED]:
        for text in dict.fromkeys((_label(shown), f"{shown.number}")):
            size = round(font(_SIZE).getlength(text)) + _BADGE // 2, _BADGE
            spot = free_place(shown.box, size, picture.size, taken)
            if spot is not None:
                taken.append(spot)
                badge(draw, spot, text, region_colour(shown.number), _SIZE)
                break


def _label(shown: _Shown) -> str:
    name = shown.region.category
    return f"{shown.number}" if name is None else f"{shown.number} {name}"


def _framed(picture: Image.Image, name: str, facts: str, regions: Sequence[_Shown]) -> Image.Image:
    """A card: picture, key and size, and what is said of the regions."""
    listed = regions[:LISTED]
    more = len(regions) - len(listed)
    lines = 1 + len(listed) + bool(more)
    height = picture.height + lines * _LINE + 3 * _PADDING
    card = _blank(height)
    draw = ImageDraw.Draw(card)
    card.paste(picture, ((_CARD_WIDTH - picture.width) // 2, _PADDING))
    top = picture.height + 2 * _PADDING
    room = _CARD_WIDTH - 2 * _PADDING
    right = font(_SMALL).getlength(facts)
    key = shortened(name, _SMALL, room - right - _PADDING)
    draw.text((_PADDING, top), key, FAINT, font(_SMALL))
    draw.text((_CARD_WIDTH - _PADDING - right, top), facts, FAINT, font(_SMALL))
    for shown in listed:
        top += _LINE
        _tell(draw, top, shown)
    if more:
        middle = top + _LINE + _BADGE / 2
        told = f"and {more} smaller"
        draw.text((_PADDING, middle), told, FAINT, font(_SMALL), anchor="lm")
    return card


def _tell(draw: ImageDraw.ImageDraw, top: int, shown: _Shown) -> None:
    """A line: number, name and phrases of a region, as far as there is room."""
    indent = _PADDING + 2 * _BADGE
    place = _PADDING, top, _PADDING + round(1.6 * _BADGE), top + _BADGE
    badge(draw, place, f"{shown.number}", region_colour(shown.number), _SMALL)
    room = _CARD_WIDTH - _PADDING - indent
    name = shortened(shown.region.category or "(no name)", _SIZE, room)
    colour = INK if shown.region.category else FAINT
    middle = top + _BADGE / 2
    draw.text((indent, middle), name, colour, font(_SIZE), anchor="lm")
    taken = font(_SIZE).getlength(name) + _PADDING
    phrases = "; ".join(map(str, shown.region.phrases))
    said = shortened(phrases, _SMALL, room - taken)
    draw.text((indent + taken, middle), said, FAINT, font(_SMALL), anchor="lm")


def _refusal(name: str, reason: str) -> Image.Image:
    lines = wrapped(reason, _SIZE, _CARD_WIDTH - 2 * _PADDING)
    card = _blank((len(lines) + 1) * _LINE + 2 * _PADDING)
    draw = ImageDraw.Draw(card)
    draw.text((_PADDING, _PADDING), name, FAINT, font(_SMALL))
    for number, line in enumerate(lines, start=1):
        draw.text((_PADDING, _PADDING + number * _LINE), line, WRONG, font(_SIZE))
    return card


def _blank(height: int) -> Image.Image:
    card = Image.new("RGB", (_CARD_WIDTH, height), PAPER)
    frame = (0, 0, card.width - 1, card.height - 1)
    ImageDraw.Draw(card).rounded_rectangle(frame, 10 * _ZOOM, CARD, EDGE, _ZOOM)
    return card
