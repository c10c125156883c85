"""The objective of a trial, read from its run's metrics as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tap_platform.runs.metrics import MetricsReader, MetricsRecord


class NeverMeasuredError(ValueError):
    """The job does not record what the sweep is about."""


class Measure(NamedTuple):
    """The objective at a step."""

    step: int
    objective: float
    """NaN and infinities are told too."""


class ObjectiveReader:
    """Follows one measure of a run; each of its steps is told once.

    Workers that start anew from a checkpoint measure the steps since it again: those are known.
    """

    def __init__(self, path: Path, metric: str, after: int, attempt: int = 0) -> None:
        """Read nothing yet.

        Args:
            path: the run's `metrics.jsonl`.
            metric: the measure, such as `val/box_iou`.
            after: the last step that is known.
            attempt: the first start of the run that counts: what others measured before the run
                went on from another's weights is not of these weights.
        """
        self._reader = MetricsReader(path)
        self._metric, self._kind = metric, metric.partition("/")[0]
        self._after, self._attempt = after, attempt
        self._has_come = False
        self._others: dict[str, set[int]] = {}

    def read_on(self) -> Iterator[Measure]:
        """What is new.

        Raises:
            NeverMeasuredError: if its kind was measured at two steps, without it.
        """
        for record in self._reader.read_on():
            value = record.named_values.get(self._metric)
            if value is None:
                self._miss(record)
                continue
            self._has_come = True
            if record.step > self._after and record.attempt >= self._attempt:
                self._after = record.step
                yield Measure(record.step, value)

    def check_has_come(self) -> None:
        """At the end of a run.

        Raises:
            NeverMeasuredError: if it was not measured at all.
        """
        if not self._has_come:
            raise NeverMeasuredError(self._never())

    def _miss(self, record: MetricsRecord) -> None:
        for name in record.named_values:
            self._others.setdefault(name, set()).add(record.step)
        # What is measured of one step may be written in several records.
        steps = {
            step
            for name, steps in self._others.items()
            if name.partition("/")[0] == self._kind
            for step in steps
        }
        if not self._has_come and len(steps) > 1 and record.kind == self._kind:
            raise NeverMeasuredError(self._never())

    def _never(self) -> str:
        names = ", ".join(sorted(self._others)) or "nothing"
        return f"objective.metric {self._metric} was never recorded; what was: {names}"
