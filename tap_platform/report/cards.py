"""Held-out regions as cards: what was asked, what is true, what the model said, what is wrong."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Failure = Literal["mask", "concept", "caption"]
FAILURES: tuple[Failure, ...] = ("mask", "concept", "caption")
"""What can be wrong with an answer; the gravest first."""

POOR_IOU = 0.5
"""Masks below it have failed."""
LONGEST_TEXT = 240
"""Characters of a phrase or a caption that are shown."""
MOST_PHRASES = 4
"""Phrases of a region that are shown."""


@dataclass(frozen=True)
class CardPictures:
    """Three WebP files of one size."""

    prompt: bytes
    """The picture with the prompt on it."""
    truth: bytes
    """The picture with the true mask."""
    answer: bytes
    """The picture with the predicted mask."""


@dataclass(frozen=True)
class Card:
    """One region, and the model's answer to one prompt."""

    pictures: CardPictures
    prompt: str
    """`box` or `one point`."""
    iou: float
    """Of the predicted mask with the true one, from 0 to 1."""
    true_concept: str | None
    """None for a region without a name."""
    concept: str
    """The likeliest name."""
    probability: float
    """Of that name, from 0 to 1."""
    phrases: tuple[str, ...] = ()
    """What people say of the region."""
    caption: str | None = None
    """What the model says; None where it was not asked."""
    names_concept: bool | None = None
    """Whether the caption contains the true name; None without a caption or a name."""
    cider: float | None = None
    """Of the caption, in the papers' unit: 100 is like one person's words to another's."""

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What is wrong, the gravest first."""
        wrong: dict[Failure, bool] = {
            "mask": self.iou < POOR_IOU,
            "concept": self.true_concept not in (None, self.concept),
            "caption": self.names_concept is False,
        }
        return tuple(failure for failure in FAILURES if wrong[failure])


def failures_first(cards: Iterable[Card]) -> list[Card]:
    """By the gravest failure, then from the lowest IoU to the highest."""

    def rank(card: Card) -> tuple[int, float]:
        gravest = FAILURES.index(card.failures[0]) if card.failures else len(FAILURES)
        return gravest, card.iou

    return sorted(cards, key=rank)


def count_failures(cards: Iterable[Card]) -> dict[str, int]:
    """How many cards have each failure, and how many are `right`."""
    counts: Counter[str] = Counter()
    for card in cards:
        counts.update(card.failures or ["right"])
    return {what: counts[what] for what in (*FAILURES, "right")}


def shortened(text: str, room: int = LONGEST_TEXT) -> str:
    """A text on one line, cut where it is longer than its room."""
    line = " ".join(text.split())
    return line if len(line) <= room else f"{line[:room]}…"


def phrases_in_short(phrases: tuple[str, ...]) -> list[str]:
    """The first phrases, and how many are left out."""
    shown = [shortened(phrase) for phrase in phrases[:MOST_PHRASES]]
    left = len(phrases) - len(shown)
    return [*shown, f"and {left} more"] if left else shown


def rounded_down(share: float) -> str:
    """A share in two digits that is never shown above a limit which it misses."""
    return f"{math.floor(100 * share) / 100:.2f}"


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address that holds it.

    Args:
        content: the file.
        kind: its media type, such as `image/webp`.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
