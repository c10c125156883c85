"""Points and boxes as people write them, checked and laid out for the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tap_platform.objectives.prompts import (
    BACKGROUND,
    BOX_LEFT_TOP,
    BOX_RIGHT_BOTTOM,
    FOREGROUND,
    PAD,
    Prompts,
)

Numbers = NDArray[np.float32]
Labels = NDArray[np.int64]


def read_prompts(points: Any = None, labels: Any = None, boxes: Any = None) -> Prompts:
    """Lay out M prompts: clicks, a box, or both together.

    Clicks alone are followed by one pad, as the released model expects; a box stands alone. Places
    outside the image are allowed: the model moves them to the border of its frame.

    Args:
        points: (x, y) in pixels of the image, [N, 2] for one prompt or [M, N, 2]; one (x, y), too.
        labels: 1 foreground, 0 background, 4 for a point to ignore, [N] or [M, N]; left out, all
            are foreground.
        boxes: left, top, right and bottom in pixels of the image, [4] or [M, 4].

    Returns:
        float32 points [M, P, 2] in pixels of the image, int64 labels [M, P], bool is_box [M].

    Raises:
        ValueError: if there is no prompt, or it is not of numbers in one of these shapes.
    """
    if points is None and labels is not None:
        raise ValueError("labels without points: give the points that they belong to")
    if points is None and boxes is None:
        raise ValueError("no prompt: give points, boxes, or both")
    parts = [] if boxes is None else [_read_boxes(boxes)]
    if points is not None:
        parts.append(_read_points(points, labels, padded=boxes is None))
    if len({len(places) for places, _ in parts}) > 1:
        raise ValueError(
            f"{len(parts[0][0])} boxes but points of {len(parts[1][0])} prompts:"
            " given together, each box needs its own points"
        )
    places, meanings = (np.concatenate(arrays, 1) for arrays in zip(*parts, strict=True))
    is_box = meanings[:, 0] == BOX_LEFT_TOP
    return Prompts(torch.from_numpy(places), torch.from_numpy(meanings), torch.from_numpy(is_box))


def _read_points(points: Any, labels: Any, padded: bool) -> tuple[Numbers, Labels]:
    places = np.atleast_2d(_numbers(points, "points"))
    places = places[None] if places.ndim == 2 else places
    if places.ndim != 3 or places.shape[2] != 2 or 0 in places.shape:
        raise ValueError(f"points have the shape [N, 2] or [M, N, 2], not {list(places.shape)}")
    meanings = np.ones(places.shape[:2], np.int64)
    if labels is not None:
        meanings = _read_labels(labels, places.shape[:2])
    if padded:
        places = np.pad(places, ((0, 0), (0, 1), (0, 0)))
        meanings = np.pad(meanings, ((0, 0), (0, 1)), constant_values=PAD)
    return places, meanings


def _read_labels(labels: Any, shape: tuple[int, ...]) -> Labels:
    meanings = np.atleast_1d(_numbers(labels, "labels"))
    meanings = meanings[None] if meanings.ndim == 1 else meanings
    if meanings.shape != shape:
        raise ValueError(
            f"labels of the shape {list(meanings.shape)} for points of {list(shape)}:"
            " each point needs one"
        )
    if not np.isin(meanings, (BACKGROUND, FOREGROUND, PAD)).all():
        raise ValueError("labels are 1 (foreground), 0 (background) or 4 (a point to ignore)")
    return meanings.astype(np.int64)


def _read_boxes(boxes: Any) -> tuple[Numbers, Labels]:
    sides = np.atleast_2d(_numbers(boxes, "boxes"))
    if sides.ndim != 2 or sides.shape[1] != 4 or not len(sides):
        raise ValueError(f"boxes have the shape [4] or [M, 4], not {list(sides.shape)}")
    for number, (left, top, right, bottom) in enumerate(sides.tolist()):
        if right < left or bottom < top:
            raise ValueError(
                f"box {number} ({left:g}, {top:g}, {right:g}, {bottom:g}) ends before it begins:"
                " a box is left, top, right, bottom, not width and height"
            )
    meanings = np.array([BOX_LEFT_TOP, BOX_RIGHT_BOTTOM]) * np.ones((len(sides), 1), np.int64)
    return sides.reshape(-1, 2, 2), meanings


def _numbers(values: Any, what: str) -> Numbers:
    """An array of finite numbers, or a word on what is wrong with it."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"the {what} are ragged: each needs as many numbers as the rest"
        ) from error
    if array.dtype.kind not in "iufb":
        shown = np.array2string(array.ravel()[:2], separator=", ")
        raise ValueError(f"the {what} hold {shown}, which are not numbers: convert them first")
    if not np.isfinite(array).all():
        raise ValueError(f"the {what} hold NaN or infinity")
    return array.astype(np.float32)
