"""Pictures of the best and the worst cases of a suite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from datamodules.palette import CARD, EDGE, FAINT, INK, PAPER, PREDICTED, RIGHT, TRUE, WRONG, Colour
from tap_platform.evaluation.pictures import (
    fitted,
    squared,
    with_mask,
    with_prompt,
    write_line,
)
from tap_platform.evaluation.suites.ground_truth import ImageId, Record
from tap_platform.evaluation.suites.suite import Case
from tap_platform.prediction.images import Pixels

# Everything is drawn twice as large and shrunk at the end: smooth lines without a drawing library.
_ZOOM = 2
_SIDE, _GAP, _LINE = 190 * _ZOOM, 10 * _ZOOM, 19 * _ZOOM
_SMALL, _LARGE = 12.5 * _ZOOM, 14 * _ZOOM
_TEXT_LINES = 3
_PANELS_IN_A_ROW = 6


def best_and_worst(cases: Sequence[Case], count: int) -> tuple[list[Case], list[Case]]:
    """The best cases, the best first, and the worst, the worst first; no image shows twice in one.

    Of few cases, no case is among both.
    """
    ranked = sorted(cases, key=lambda case: -case.goodness)
    half = math.ceil(len(ranked) / 2)
    return _distinct(ranked[:half], count), _distinct(ranked[half:][::-1], count)


def _distinct(ranked: Sequence[Case], count: int) -> list[Case]:
    first: dict[ImageId, Case] = {}
    for case in ranked:
        first.setdefault(case.image_id, case)
    return list(first.values())[:count]


def draw_cases(cases: Sequence[Case], pixels: Callable[[ImageId], Pixels]) -> Image.Image:
    """Lay cases out as cards: the prompt, the true mask and the model's, and the words below.

    Args:
        cases: in reading order, at least one.
        pixels: gives the picture of an image.
    """
    panels = max([2, *map(_panels, cases)])
    cards = [_card(case, pixels(case.image_id), panels) for case in cases]
    (width, height), columns = cards[0].size, _PANELS_IN_A_ROW // panels
    rows = math.ceil(len(cards) / columns)
    sheet = Image.new(
        "RGB",
        (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP),
        PAPER,
    )
    for number, card in enumerate(cards):
        row, column = divmod(number, columns)
        sheet.paste(card, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    return sheet.resize((sheet.width // _ZOOM, sheet.height // _ZOOM), Image.Resampling.LANCZOS)


def _panels(case: Case) -> int:
    return 1 + bool(case.true_mask) + bool(case.given_mask)


def _card(case: Case, pixels: Pixels, places: int) -> Image.Image:
    picture = fitted(pixels, _SIDE)
    scale = picture.width / pixels.shape[1]
    panels = [("prompt", with_prompt(picture, scale, case.box, case.point))]
    if case.true_mask:
        panels.append(("true mask", _masked(picture, case.true_mask, TRUE)))
    if case.given_mask:
        panels.append(("predicted mask", _masked(picture, case.given_mask, PREDICTED)))
    width = places * (_SIDE + _GAP) + _GAP
    card = Image.new("RGB", (width, _SIDE + (_TEXT_LINES + 1) * _LINE + 2 * _GAP), PAPER)
    draw = ImageDraw.Draw(card)
    frame = (0, 0, card.width - 1, card.height - 1)
    draw.rounded_rectangle(frame, 10 * _ZOOM, CARD, EDGE, _ZOOM)
    for number, (label, panel) in enumerate(panels):
        left = _GAP + number * (_SIDE + _GAP)
        card.paste(squared(panel, _SIDE), (left, _GAP))
        write_line(draw, (left, _GAP + _SIDE), label, FAINT, _SMALL, _SIDE)
    _words(draw, case, _GAP + _SIDE + _LINE, width - 2 * _GAP)
    return card


def _masked(picture: Image.Image, mask: Record, colour: Colour) -> Image.Image:
    inside = coco_mask.decode(mask).astype(np.float32)
    return with_mask(picture, inside - 0.5, colour)


def _words(draw: ImageDraw.ImageDraw, case: Case, top: int, room: int) -> None:
    """The measure, the right answer and the model's, a line each."""
    verdict = {None: INK, True: RIGHT, False: WRONG}[case.correct]
    sign = {None: "", True: "right: ", False: "wrong: "}[case.correct]
    lines = (
        (f"{case.measure}   (image {case.image_id})", FAINT),
        (case.wanted, INK),
        (f"{sign}{case.given}" if case.given else "", verdict),
    )
    for number, (text, colour) in enumerate(lines):
        write_line(draw, (_GAP, top + number * _LINE), text, colour, _LARGE, room)
