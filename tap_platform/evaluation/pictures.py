"""A picture of what a model says about held-out regions: prompt, mask, concept and caption."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from datamodules.palette import (
    CARD,
    EDGE,
    FAINT,
    INK,
    PAPER,
    PREDICTED,
    PROMPT,
    RIGHT,
    TRUE,
    WRONG,
    Colour,
)
from tap_platform.evaluation.examples import Example, Words, collect_examples
from tap_platform.prediction.captions import Speech

if TYPE_CHECKING:
    from datamodules.stream.batch import RegionBatch
    from tap_platform.models import Tap

_Strokes = tuple[tuple[tuple[int, int], ...], ...]


# Everything is drawn twice as large and shrunk at the end: smooth lines without a drawing library.
_ZOOM = 2
_MARGIN, _PADDING, _GAP = 16 * _ZOOM, 12 * _ZOOM, 8 * _ZOOM
_LINE = 19 * _ZOOM
_TICK: _Strokes = (((-4, 0), (-1, 3), (4, -3)),)
_CROSS: _Strokes = (((-3, -3), (3, 3)), ((-3, 3), (3, -3)))
_LABEL_ROOM = 78 * _ZOOM
_LABEL_SIZE, _NAME_SIZE = 12.5 * _ZOOM, 14.5 * _ZOOM


def prediction_grid(
    model: Tap,
    batches: Iterable[RegionBatch],
    names: Sequence[str],
    vocabulary: Tensor,
    temperature: float,
    count: int = 8,
    speech: Speech | None = None,
) -> Image.Image:
    """Show a model's answers about one region from each of the first `count` images.

    Args:
        model: on any device; it is put in evaluation mode for the while.
        batches: held-out batches.
        names: the V concepts.
        vocabulary: float32 [V, D], their embeddings, unit rows.
        temperature: what cosine similarities are divided by.
        count: how many regions.
        speech: how a model speaks that has learned to.

    Returns:
        A picture 1200 pixels wide; see `draw_grid`.

    Raises:
        ValueError: if no image has a region.
    """
    examples = collect_examples(model, batches, names, vocabulary, temperature, count, speech)
    return draw_grid(examples)


def draw_grid(examples: Sequence[Example], columns: int = 2, width: int = 1200) -> Image.Image:
    """Lay examples out as cards of three panels: prompt, true mask, predicted mask.

    Under the panels stand the true concept and the predicted one, green if right and red if wrong;
    below them the true phrase and the caption, for a model that speaks.

    Args:
        examples: in reading order, at least one; all of a model that speaks, or none.
        columns: cards in a row.
        width: of the picture, in pixels; the height follows.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not examples:
        raise ValueError("no held-out region to draw: the validation split has no regions")
    card_width = (width * _ZOOM - (columns + 1) * _MARGIN) // columns
    cards = [_card(example, card_width) for example in examples]
    step_x, step_y = card_width + _MARGIN, cards[0].height + _MARGIN
    rows = -(-len(cards) // columns)
    grid = Image.new("RGB", (width * _ZOOM, rows * step_y + _MARGIN), PAPER)
    for number, card in enumerate(cards):
        row, column = divmod(number, columns)
        grid.paste(card, (_MARGIN + column * step_x, _MARGIN + row * step_y))
    return grid.resize((width, grid.height // _ZOOM), Image.Resampling.LANCZOS)


def _card(example: Example, width: int) -> Image.Image:
    """One example: three square panels with their captions."""
    side = (width - 2 * _PADDING - 2 * _GAP) // 3
    words_height = _GAP + 2 * _LINE if example.words else 0
    height = side + 2 * _PADDING + 2 * _LINE + _GAP + words_height
    card = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(card)
    frame = (0, 0, card.width - 1, card.height - 1)
    draw.rounded_rectangle(frame, 10 * _ZOOM, CARD, EDGE, _ZOOM)
    picture = fitted(example.picture, side)
    truth = with_mask(picture, example.true_mask, TRUE)
    answer = with_mask(picture, example.predicted_mask, PREDICTED)
    prediction = f"{example.predicted_concept} {example.probability:.0%}"
    panels = (
        (_with_prompt(picture, example), "prompt", "box" if example.box else "one point", INK),
        (truth, "true mask", example.true_concept or "(no name)", INK),
        (answer, f"predicted, IoU {example.iou:.2f}", prediction, _verdict(example)),
    )
    top = _PADDING + side + _GAP
    for number, (panel, label, name, colour) in enumerate(panels):
        left = _PADDING + number * (side + _GAP)
        card.paste(squared(panel, side), (left, _PADDING))
        write_line(draw, (left, top), label, FAINT, _LABEL_SIZE, side)
        write_line(draw, (left, top + _LINE), name, colour, _NAME_SIZE, side - _LINE)
    _mark(draw, width - _PADDING, top + _LINE, example)
    if example.words:
        place = _PADDING, top + 2 * _LINE + _GAP
        _write_words(draw, place, example.words, width - 2 * _PADDING)
    return card


def _write_words(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], words: Words, room: int
) -> None:
    """Write the true phrase and the caption below each other, so that words can be compared."""
    left, top = place
    said = (
        ("people say", words.phrase or "(nothing)"),
        ("model says", words.caption or "(nothing)"),
    )
    for number, (label, text) in enumerate(said):
        line = top + number * _LINE
        write_line(draw, (left, line + 2 * _ZOOM), label, FAINT, _LABEL_SIZE, _LABEL_ROOM)
        indented = (left + _LABEL_ROOM, line)
        write_line(draw, indented, text, INK, _NAME_SIZE, room - _LABEL_ROOM)


def _verdict(example: Example) -> Colour:
    """The colour of the predicted concept."""
    if example.true_concept is None:
        return INK
    return RIGHT if example.predicted_concept == example.true_concept else WRONG


def fitted(picture: NDArray[np.uint8], side: int) -> Image.Image:
    """The picture, its long side brought to a panel's."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)


def squared(picture: Image.Image, side: int) -> Image.Image:
    """A picture in the middle of a square panel."""
    panel = Image.new("RGB", (side, side), PAPER)
    panel.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return panel


def _with_prompt(picture: Image.Image, example: Example) -> Image.Image:
    """The picture with its prompt drawn on it."""
    scale = picture.width / example.picture.shape[1]
    return with_prompt(picture, scale, example.box, example.point)


def with_prompt(
    picture: Image.Image,
    scale: float,
    box: tuple[float, float, float, float] | None,
    point: tuple[float, float] | None,
) -> Image.Image:
    """The picture with a box and a point drawn on it, which `scale` brings to its pixels."""
    shown = picture.copy()
    draw = ImageDraw.Draw(shown)
    if box:
        left, top, right, bottom = (value * scale for value in box)
        for grown, colour, width in ((2 * _ZOOM, CARD, 4 * _ZOOM), (_ZOOM, PROMPT, 2 * _ZOOM)):
            corners = (left - grown, top - grown, right + grown, bottom + grown)
            draw.rectangle(corners, outline=colour, width=width)
    if point:
        x, y = ((value + 0.5) * scale for value in point)
        for radius, colour in ((6 * _ZOOM, CARD), (5 * _ZOOM, PROMPT), (1.5 * _ZOOM, INK)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return shown


def with_mask(picture: Image.Image, mask: NDArray[np.float32], colour: Colour) -> Image.Image:
    """The picture, faded where a mask is not above 0 and tinted where it is, with an outline."""
    smooth = Image.fromarray(mask).resize(picture.size, Image.Resampling.BILINEAR)
    stencil = Image.fromarray(np.uint8(255) * (np.asarray(smooth) > 0))
    thick = 2 * _ZOOM + 1
    outline = ImageChops.difference(
        stencil.filter(ImageFilter.MaxFilter(thick)), stencil.filter(ImageFilter.MinFilter(thick))
    )
    grey = picture.convert("L").convert("RGB")
    faded = Image.blend(grey, Image.new("RGB", picture.size, CARD), 0.6)
    tinted = Image.blend(picture, Image.new("RGB", picture.size, colour), 0.3)
    shown = Image.composite(tinted, faded, stencil)
    shown.paste(colour, mask=outline)
    return shown


def _mark(draw: ImageDraw.ImageDraw, right: int, top: int, example: Example) -> None:
    """Say by a tick or a cross whether the concept is right: not all people tell green from red."""
    if example.true_concept is None:
        return
    radius = 8 * _ZOOM
    x, y = right - radius, top + radius
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_verdict(example))
    strokes = _TICK if example.predicted_concept == example.true_concept else _CROSS
    for stroke in strokes:
        line = [(x + across * _ZOOM, y + down * _ZOOM) for across, down in stroke]
        draw.line(line, CARD, 2 * _ZOOM, joint="curve")


def write_line(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    colour: Colour,
    size: float,
    room: int,
) -> None:
    """Write a line, shortened to the room it has, in pixels."""
    font = ImageFont.load_default(size)
    if draw.textlength(text, font) > room:

        def shortened(letters: int) -> str:
            return text[:letters].rstrip() + "..."

        letters, limit = range(len(text)), float(room)
        longer = bisect(letters, limit, key=lambda n: draw.textlength(shortened(n), font))
        text = shortened(max(0, longer - 1))
    draw.text(place, text, colour, font)
