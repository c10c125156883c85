"""What the page draws over steps: panels of lines, taken from the metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tap_platform.runs.metrics import MetricsRecord

Values = NDArray[np.float64]

STEADY_SHARE = 1 / 30
"""Share of a line that its running mean is taken over."""
MOST_POINTS = 600
"""Points of a line that are drawn; longer ones are drawn as means of neighbours."""


class Source(NamedTuple):
    """Where a line comes from."""

    label: str
    kind: str
    name: str


class Panel(NamedTuple):
    """One drawing, before it is known which of its lines there are."""

    title: str
    unit: str
    """What an axis says: empty for a plain number."""
    sources: tuple[Source, ...]
    factor: float = 1.0
    """What values are multiplied by to be in that unit."""
    is_logarithmic: bool = False


def _by_stage(name: str) -> tuple[Source, ...]:
    first = Source("first prompt", "train", f"first/{name}")
    return first, Source("second prompt", "train", f"second/{name}")


PANELS = (
    Panel("Training loss", "weighted sum", (Source("all terms", "train", "loss"),)),
    Panel(
        "Caption loss",
        "nats a piece",
        (Source("training", "train", "caption"), Source("held out", "val", "caption_loss")),
    ),
    Panel(
        "Held-out masks",
        "mean IoU, %",
        (Source("by box", "val", "box_iou"), Source("by one point", "val", "point_iou")),
        factor=100,
    ),
    Panel("Held-out concepts", "top-1, %", (Source("by box", "val", "concept_top1"),), factor=100),
    Panel("Focal loss", "", _by_stage("focal")),
    Panel("Dice loss", "", _by_stage("dice")),
    Panel("Concept loss", "nats", _by_stage("concept")),
    Panel("Loss of predicted IoU", "squared error", _by_stage("iou")),
    Panel("IoU of training masks", "%", _by_stage("actual_iou"), factor=100),
    Panel("Learning rate", "", (Source("rate", "train", "lr"),)),
    Panel(
        "Norm of the gradient", "", (Source("norm", "train", "gradient_norm"),), is_logarithmic=True
    ),
    Panel("Throughput", "images/s", (Source("rate", "train", "speed/images_per_second"),)),
    Panel(
        "Waiting for data",
        "% of a step",
        (Source("share", "train", "speed/data_wait_share"),),
        factor=100,
    ),
)


@dataclass(frozen=True)
class Line:
    """One measure over the life of a run, whatever the number of attempts."""

    label: str
    steps: Values
    """float64 [N], ascending, at least one."""
    values: Values
    """float64 [N], in the panel's unit; NaN where the value was not finite."""

    @property
    def is_dense(self) -> bool:
        """Whether it wavers too often to be read without a running mean."""
        return len(self.steps) > 1 / STEADY_SHARE

    @property
    def lost(self) -> int:
        """Values that were not finite."""
        return int(np.isnan(self.values).sum())

    @property
    def last(self) -> float:
        """Where it has arrived: the end of its running mean, or its last finite value."""
        finite = self.values[np.isfinite(self.values)]
        if not len(finite):
            return float("nan")
        return float((self.steady() if self.is_dense else finite)[-1])

    def steady(self) -> Values:
        """The mean of each value and its neighbours: float64 [N], NaN where all are."""
        reach = max(1, round(len(self.values) * STEADY_SHARE / 2))
        finite = np.isfinite(self.values)
        sums = np.concatenate([[0.0], np.cumsum(np.where(finite, self.values, 0))])
        counts = np.concatenate([[0], np.cumsum(finite)])
        place = np.arange(len(self.values))
        left, right = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(place))
        number = counts[right] - counts[left]
        total = sums[right] - sums[left]
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def thinned(self) -> Line:
        """The line with few enough points to be drawn, each the mean of neighbours."""
        group = -(-len(self.steps) // MOST_POINTS)
        if group == 1:
            return self
        edges = np.arange(0, len(self.steps), group)
        sizes = np.diff(np.append(edges, len(self.steps)))
        steps = np.add.reduceat(self.steps, edges) / sizes
        finite = np.isfinite(self.values)
        sums = np.add.reduceat(np.where(finite, self.values, 0), edges)
        counts = np.add.reduceat(finite.astype(np.float64), edges)
        values = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return Line(self.label, steps, values)


def lines_of(panel: Panel, metrics: Sequence[MetricsRecord]) -> list[Line]:
    """The lines of a panel that were measured at least once."""
    found = []
    for label, kind, name in panel.sources:
        points = [(r.step, r.values[name]) for r in metrics if r.kind == kind and name in r.values]
        if points:
            steps, values = np.array(points, np.float64).T
            values = np.where(np.isfinite(values), panel.factor * values, np.nan)
            found.append(Line(label, steps, values))
    return found


def resumed_at(events: Sequence[Mapping[str, Any]]) -> list[int]:
    """The steps of the checkpoints that a run went on from, in the order of time."""
    origins = [str(e.get("goes_on_from") or "") for e in events if e.get("kind") == "training"]
    return [int(found[1]) for origin in origins if (found := re.fullmatch(r"step-(\d+)", origin))]
