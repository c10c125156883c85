"""How a run went: `metrics.jsonl`, one line for every step that was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsFloat

from tap_platform.runs.files import read_records, utc_now
from tap_platform.runs.patient_records import append_patiently


@dataclass(frozen=True)
class MetricsRecord:
    """The measures of one kind at one step."""

    step: int
    """Optimizer steps done."""
    kind: str
    """What was measured: `train`, `val`, `system`…"""
    values: dict[str, float]
    """Each measure by its name within the kind, such as `loss`."""
    attempt: int
    """The start of the run that measured."""
    time: str
    """When, UTC in ISO 8601."""

    @property
    def named_values(self) -> dict[str, float]:
        """The values by names that tell them from other kinds': `train/loss`, `val/mask_iou`.

        A name that has a slash, such as `speed/images_per_second`, is such a name already.
        """
        return {n if "/" in n else f"{self.kind}/{n}": value for n, value in self.values.items()}


class MetricsWriter:
    """Appends the measures of one attempt, from one process."""

    def __init__(self, path: Path, attempt: int = 1) -> None:
        self.path = path
        self.attempt = attempt

    def write(self, step: int, values: Mapping[str, SupportsFloat], kind: str = "train") -> None:
        """Append one record; values that follow for the same step and kind are joined to it.

        While the disk is full, records wait in memory.

        Args:
            step: Optimizer steps done.
            values: Measures by name; numbers or one-element tensors, NaN and infinities allowed.
            kind: What was measured.
        """
        stamp = {"step": step, "kind": kind, "attempt": self.attempt, "time": utc_now()}
        numbers = {name: _jsonable(float(value)) for name, value in values.items()}
        append_patiently(self.path, {**stamp, "values": numbers})


class MetricsReader:
    """Reads a file that grows, each record once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read_on(self) -> Iterator[MetricsRecord]:
        """The records since the last call, in the order written; torn lines are passed over."""
        start = -1
        while start != self._offset:
            start = self._offset
            lines, self._offset = read_records(self.path, start)
            yield from parse_metrics(lines)


def joined(earlier: MetricsRecord | None, later: MetricsRecord) -> MetricsRecord:
    """What two records of a step and kind tell: one attempt's are joined, the last attempt wins."""
    if earlier is None or earlier.attempt != later.attempt:
        return later
    return replace(later, values={**earlier.values, **later.values})


def read_metrics(path: Path) -> list[MetricsRecord]:
    """The measures by step, one record for a step and kind; torn lines are passed over.

    What an attempt wrote of one step and kind in several records is joined, and the last value of
    a name wins. A resumed run measures again the steps since its checkpoint: the last attempt wins.
    """
    latest: dict[tuple[int, str], MetricsRecord] = {}
    for record in MetricsReader(path).read_on():
        key = record.step, record.kind
        latest[key] = joined(latest.get(key), record)
    return sorted(latest.values(), key=lambda record: record.step)


def parse_metrics(lines: Iterable[dict[str, Any]]) -> list[MetricsRecord]:
    """Records from lines of the file, in their order, with NaN and infinities as numbers again."""
    return [
        MetricsRecord(
            step=line["step"],
            kind=line["kind"],
            values={name: float(value) for name, value in line["values"].items()},
            attempt=line["attempt"],
            time=line["time"],
        )
        for line in lines
    ]


def _jsonable(value: float) -> float | str:
    """JSON knows no NaN and no infinity; Python's `float` reads these words back."""
    return value if math.isfinite(value) else str(value)
