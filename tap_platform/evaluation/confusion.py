"""What a model confuses: how often regions that are one thing are called another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from tap_platform.evaluation.regions import likeliest
from tap_platform.runs.tables import Cell

if TYPE_CHECKING:
    from datamodules.stream.batch import RegionBatch
    from tap_platform.evaluation.answers import Answers

COLUMNS = ("is", "called", "count", "share")
"""The true name, the likeliest one, how often, and which share of what truly is so (0 to 1)."""
MOST_ROWS = 2000


class ConfusionCollector:
    """Notes what regions are called: listens to `evaluate_regions`."""

    def __init__(self, names: Sequence[str], vocabulary: Tensor) -> None:
        """Note nothing yet.

        Args:
            names: The concepts.
            vocabulary: float32 [V, D] unit rows, in their order.
        """
        self._names, self._vocabulary = names, vocabulary
        self.pairs: list[tuple[str, str]] = []
        """The true name and the likeliest one of each region with a mask and a name."""

    def __call__(self, batch: RegionBatch, answers: Answers) -> None:
        """Note the regions of a batch by the answers to their boxes."""
        embeddings = answers.by_box.concept_embeddings[:, 0]
        called = likeliest(embeddings, self._vocabulary.to(embeddings.device))
        counts = (batch.concepts >= 0) & (batch.weights * batch.has_mask > 0)
        true, given = batch.concepts[counts].tolist(), called[counts].tolist()
        self.pairs += [(self._names[t], self._names[g]) for t, g in zip(true, given, strict=True)]


def confusion_rows(pairs: Iterable[tuple[str, str]]) -> list[list[Cell]]:
    """Rows of `COLUMNS`, the commonest pairs first; at most `MOST_ROWS`.

    Args:
        pairs: The true name and the likeliest one of each region.
    """
    counts = Counter(pairs)
    of_each: Counter[str] = Counter()
    for (true, _), count in counts.items():
        of_each[true] += count
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        [true, called, count, round(count / of_each[true], 4)]
        for (true, called), count in ranked[:MOST_ROWS]
    ]
