"""Regions of which a box and phrases are known, and no mask."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from datamodules.shards.records import Region


class PhrasedBox(TypedDict):
    """A box with what people say of it."""

    id: Any
    """Id of the box's first annotation."""
    bbox: tuple[float, ...]
    """Left, top, width and height in pixels; it may leave the image."""
    phrases: list[str]


def phrase_of(text: Any) -> str:
    """A phrase without the blanks around it.

    Raises:
        ValueError: if nothing is left of it, or it is no text.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the phrase is empty: {text!r}")
    return text.strip()


def checked_box(values: Iterable[Any]) -> tuple[float, ...]:
    """Left, top, width and height in pixels, as they are.

    Raises:
        ValueError: if they are not four finite numbers.
    """
    box = tuple(values)
    if len(box) != 4 or not all(isinstance(v, int | float) and math.isfinite(v) for v in box):
        raise ValueError(f"the box is not four finite numbers: {list(box)}")
    return box


def joined_boxes(boxes: Iterable[PhrasedBox]) -> list[PhrasedBox]:
    """The boxes in their order; those that are identical become one with the phrases of all."""
    joined: dict[tuple[float, ...], PhrasedBox] = {}
    for box in boxes:
        phrases = joined.setdefault(box["bbox"], box)["phrases"]
        phrases.extend(phrase for phrase in box["phrases"] if phrase not in phrases)
    return list(joined.values())


def box_region(annotation: Mapping[str, Any], width: int, height: int) -> Region:
    """The region of a `PhrasedBox`, its box clipped to the image.

    Args:
        annotation: the box and its phrases.
        width: width of the image, in pixels.
        height: height of the image, in pixels.

    Raises:
        ValueError: if nothing of the box lies in the image.
    """
    left, top, across, down = annotation["bbox"]
    right, bottom = min(left + across, width), min(top + down, height)
    left, top = max(left, 0), max(top, 0)
    if right <= left or bottom <= top:
        raise ValueError(
            f"the box {list(annotation['bbox'])} covers nothing of the image of {height} x {width}"
            " pixels"
        )
    box = (float(left), float(top), float(right - left), float(bottom - top))
    return Region(
        segmentation=None,
        box=box,
        area=box[2] * box[3],
        phrases=list(annotation["phrases"]),
    )
