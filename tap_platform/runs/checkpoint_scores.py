"""How good a run was at a step, as far as that decides which checkpoints stay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from tap_platform.runs.metrics import read_metrics


def scores_of(
    metrics: Path, metric: str, best_is: Literal["highest", "lowest"]
) -> dict[int, float]:
    """The values of a measure by step, as scores: the higher the better.

    Args:
        metrics: The run's `metrics.jsonl`.
        metric: The name of the measure with its kind, such as `val/box_iou`.
        best_is: Which values are best.

    Returns:
        A score for every step that was measured and gave a number.
    """
    sign = 1 if best_is == "highest" else -1
    values = {
        record.step: record.named_values[metric]
        for record in read_metrics(metrics)
        if metric in record.named_values
    }
    return {step: sign * value for step, value in values.items() if math.isfinite(value)}
