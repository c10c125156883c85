"""Phrases that are true: words of an object's look, and one relation read off the geometry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.scenes.layout import Figure, Layout, Mask

SMALL, LARGE = 0.15, 0.35
"""An object narrower than this share of the scene's long side is small; a wider one is large."""
OCCLUSION_SHARE = 0.03
"""Share of the smaller object that must overlap before one is in front of the other."""

Relation = tuple[str, int]
"""A relation's words and the index of the object that it refers to."""


def scene_phrases(layout: Layout, rng: np.random.Generator) -> list[list[str]]:
    """Two phrases for each object, the full one first.

    The full one is `a SIZE TEXTURE COLOUR SHAPE RELATION a COLOUR SHAPE`, for example `a small
    striped red star behind a blue ring`; a middle size and a plain texture go unsaid, and so does
    the relation where there is none to an object of another name.
    """
    all_relations = scene_relations(layout)
    phrases = []
    for figure, relations in zip(layout.figures, all_relations, strict=True):
        others = [
            (words, other)
            for words, other in relations
            if layout.figures[other].concept != figure.concept
        ]
        full = with_article(f"{size_word(figure)} {look(figure)}")
        if others:
            words, other = _chosen(others, rng)
            full = f"{full} {words} {with_article(layout.figures[other].concept)}"
        phrases.append([full, with_article(look(figure))])
    return phrases


def part_phrases(part: Figure, whole: Figure) -> list[str]:
    """Two phrases for the badge on an object: `a small white circle on a blue square`."""
    look_of_part = with_article(look(part))
    full = with_article(f"{size_word(part)} {look(part)}")
    return [f"{full} on {with_article(whole.concept)}", look_of_part]


def look(figure: Figure) -> str:
    """Texture, colour and shape: `striped red star`."""
    return figure.concept if figure.texture == "plain" else f"{figure.texture} {figure.concept}"


def size_word(figure: Figure) -> str:
    """`small`, `large`, or nothing for a middle size."""
    if figure.size < SMALL:
        return "small"
    return "large" if figure.size > LARGE else ""


def with_article(words: str) -> str:
    """The words with `a` or `an` before them."""
    words = words.strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def scene_relations(layout: Layout) -> list[list[Relation]]:
    """For each object, every relation that holds to another one.

    - `in front of` and `behind`: the one on top visibly covers at least `OCCLUSION_SHARE` of the
      smaller one's pixels with its own.
    - `left of`, `right of`, `above`, `below`: the boxes of the visible parts are apart on that
      axis, and their centres are farther apart on it than on the other.
    """
    count = len(layout.figures)
    boxes = [visible_box(layout.visible(index)) for index in range(count)]
    occlusions = _occlusions(layout)
    relations: list[list[Relation]] = [[] for _ in range(count)]
    for one in range(count):
        for other in range(count):
            if occlusions[one, other]:
                relations[one].append(("in front of", other))
                relations[other].append(("behind", one))
            if one != other and (words := _direction(boxes[one], boxes[other])):
                relations[one].append((words, other))
    return relations


def visible_box(mask: Mask) -> NDArray[np.int64]:
    """`[x0, y0, x1, y1]` of a mask's pixels, the ends exclusive."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _occlusions(layout: Layout) -> NDArray[np.bool_]:
    """`[N, N]` whether one object (row) hides a fair piece of another (column)."""
    count = len(layout.figures)
    wholes = [layout.whole(figure) for figure in layout.figures]
    areas = np.array([np.count_nonzero(whole) for whole in wholes])
    covered = np.zeros((count, count), np.int64)
    for hidden, whole in enumerate(wholes):
        on_top = np.bincount(layout.owner[whole] + 1, minlength=count + 1)[1:]
        covered[hidden + 1 :, hidden] = on_top[hidden + 1 :]
    smaller = np.minimum(areas[:, None], areas[None, :])
    return (covered > 0) & (covered >= OCCLUSION_SHARE * smaller)


def _direction(box: NDArray[np.int64], other: NDArray[np.int64]) -> str | None:
    right, down = (box[:2] + box[2:] - other[:2] - other[2:]) / 2
    if abs(right) > abs(down):
        if box[2] <= other[0]:
            return "left of"
        return "right of" if other[2] <= box[0] else None
    if box[3] <= other[1]:
        return "above"
    return "below" if other[3] <= box[1] else None


def _chosen(relations: list[Relation], rng: np.random.Generator) -> Relation:
    """One relation; half the time an occlusion, where there is one, for they are rarer."""
    occlusions = [each for each in relations if each[0] in {"in front of", "behind"}]
    pool = occlusions if occlusions and rng.random() < 0.5 else relations
    return pool[rng.integers(len(pool))]
