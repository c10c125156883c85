"""What runs measured, how much each of it wavers, and whether a difference is more than that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from tap_platform.compare.runs import Column, ComparedRun
from tap_platform.report.tables import MEASURES
from tap_platform.runs.metrics import MetricsRecord

Spread = Literal["runs", "records", "none"]
SETTLED_SHARE = 0.1
"""Share of a run's last records that its value is the mean of."""
FEWEST = 3
"""Records that a spread is taken of at least."""
CLEAR = 2.0
"""A difference is clear above so many of its standard errors, or deviations of records."""
GOODPUT = "goodput"
_KINDS = ("final", "eval_", "val", "train")
"""Kinds of records in the order to be shown."""


@dataclass(frozen=True)
class Value:
    """A measure of one column."""

    mean: float
    spread: float | None
    """Standard deviation; None where it was measured once."""
    of: Spread
    """Of what: of the means of runs with other seeds, or of the last records of one run."""
    count: int
    """How many values it was taken of."""


@dataclass(frozen=True)
class Cell:
    """A value, and how it differs from the first column's."""

    value: Value | None
    difference: float | None = None
    """None in the first column, and where one of the two is missing."""
    clear: bool | None = None
    """Whether the difference is more than the spread of both; None where that is not known."""


@dataclass(frozen=True)
class Measure:
    """One row."""

    name: str
    """Such as `val/box_iou`."""
    cells: tuple[Cell, ...]

    @property
    def is_result(self) -> bool:
        """Whether it tells how good a run is, or what it took; else, how it trained."""
        kind, slash, measure = self.name.partition("/")
        return not slash or (kind.startswith(("final", "eval_", "val")) and measure in MEASURES)

    @property
    def is_constant(self) -> bool:
        """Whether it is the same in all runs, and never changes."""
        values = [cell.value for cell in self.cells]
        first = values[0]
        return all(v and first and v.mean == first.mean and not v.spread for v in values)


def measures(columns: Sequence[Column]) -> list[Measure]:
    """What runs measured, each with its spread; costs and times last.

    Counts and parts of training that are the same in all runs, and never change, are left out.
    """
    told = [[dict(_values_of(run)) for run in column.runs] for column in columns]
    names = dict.fromkeys(name for own in told for values in own for name in values)
    found = [_measure(name, told) for name in sorted(names, key=_order)]
    return [each for each in found if each.is_result or not each.is_constant]


def _measure(name: str, told: Sequence[Sequence[dict[str, list[float]]]]) -> Measure:
    values = [_value([run[name] for run in own if name in run]) for own in told]
    first = values[0]
    return Measure(name, tuple(_cell(first, value, n) for n, value in enumerate(values)))


def _cell(first: Value | None, value: Value | None, place: int) -> Cell:
    if place == 0 or first is None or value is None:
        return Cell(value)
    difference = value.mean - first.mean
    if first.spread is None or value.spread is None:
        return Cell(value, difference)
    noise = math.hypot(_noise(first), _noise(value))
    return Cell(value, difference, abs(difference) > CLEAR * noise)


def _noise(value: Value) -> float:
    """How far the mean may be off. Neighbouring records are alike, so that many tell no more."""
    spread = value.spread or 0.0
    return spread / math.sqrt(value.count) if value.of == "runs" else spread


def _value(runs: Sequence[Sequence[float]]) -> Value | None:
    """Of one column; a list of last records for each of its runs."""
    if not runs:
        return None
    if len(runs) > 1:
        means = [fmean(records) for records in runs]
        return Value(fmean(means), stdev(means), "runs", len(means))
    (records,) = runs
    if len(records) >= FEWEST:
        return Value(fmean(records), stdev(records), "records", len(records))
    return Value(records[-1], None, "none", 1)


def _values_of(run: ComparedRun) -> Iterator[tuple[str, list[float]]]:
    """The last records of each measure of a run, finite ones alone."""
    series: dict[str, list[float]] = {}
    for record in run.records.metrics:
        if _is_shown(record):
            for name, value in record.named_values.items():
                if math.isfinite(value):
                    series.setdefault(name, []).append(value)
    for name, values in series.items():
        last = max(1, math.ceil(SETTLED_SHARE * len(values)))
        # Few looks at held-out images are no tenth: those of the last half are settled.
        enough = max(last, min(FEWEST, len(values) // 2))
        yield name, values[-enough:]
    yield from _taken(run)


def _taken(run: ComparedRun) -> Iterator[tuple[str, list[float]]]:
    account = run.account
    yield "steps", [float(account.step)]
    yield "machine hours", [account.hours]
    if account.gpu_hours:
        yield "GPU-hours", [account.gpu_hours]
    if account.cost is not None:
        yield f"cost, {account.currency}", [account.cost]
    if "useful" in account.goodput.shares:
        yield GOODPUT, [account.goodput.shares["useful"]]


def _is_shown(record: MetricsRecord) -> bool:
    return record.kind.startswith(_KINDS)


def _order(name: str) -> int:
    """By kind; names that name none are of parts of the loss and of speeds, then of costs."""
    for place, kind in enumerate(_KINDS):
        if name.startswith(kind):
            return place
    return len(_KINDS) + ("/" not in name)
