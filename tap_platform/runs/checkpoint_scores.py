"""How good a run was at its steps, as far as that decides which checkpoints stay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from tap_platform.runs.metrics import MetricsReader, MetricsRecord


class Scores:
    """The values of a measure by step, as scores: the higher the better.

    A resumed run measures again the steps since its checkpoint: the last attempt wins.
    """

    def __init__(self, metrics: Path, metric: str, best_is: Literal["highest", "lowest"]) -> None:
        """Read nothing yet.

        Args:
            metrics: The run's `metrics.jsonl`.
            metric: The name of the measure with its kind, such as `val/box_iou`.
            best_is: Which values are best.
        """
        self.metric = metric
        self._sign = 1 if best_is == "highest" else -1
        self._reader = MetricsReader(metrics)
        self._found: dict[tuple[int, str], tuple[int, float]] = {}

    def newest(self) -> dict[int, float]:
        """A score for every step that was measured and gave a number, until now."""
        for record in self._reader.read_on():
            self._take(record)
        return {
            step: self._sign * value
            for (step, _), (_, value) in self._found.items()
            if math.isfinite(value)
        }

    def _take(self, record: MetricsRecord) -> None:
        key, value = (record.step, record.kind), record.named_values.get(self.metric)
        if value is not None:
            self._found[key] = record.attempt, value
        elif key in self._found and self._found[key][0] != record.attempt:
            del self._found[key]
