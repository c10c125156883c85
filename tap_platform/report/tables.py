"""The numbers of a run, beside what costs nothing and beside the papers'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tap_platform.evaluation.suites.papers import PAPER_ROWS
from tap_platform.report.facts import MEASURED_LATER
from tap_platform.report.records import RunRecords

ABSENT = "-"


class Measure(NamedTuple):
    """How a number is shown."""

    title: str
    unit: str
    factor: float = 100.0


MEASURES = {
    "box_iou": Measure("mask mIoU by box", "%"),
    "point_iou": Measure("mask mIoU by one point", "%"),
    "point_oracle_iou": Measure("the same, best of three masks", "%"),
    "concept_top1": Measure("concept top-1", "%"),
    "names_concept": Measure("captions that name the concept", "%"),
    "cider": Measure("CIDEr", "x 100"),
    "meteor": Measure("METEOR", "%"),
    "bleu_4": Measure("BLEU-4", "%"),
    "rouge_l": Measure("ROUGE-L", "%"),
    "ap": Measure("AP", "%"),
    "ap50": Measure("AP50", "%"),
    "ap75": Measure("AP75", "%"),
    "aps": Measure("APs", "%"),
    "apm": Measure("APm", "%"),
    "apl": Measure("APl", "%"),
    "apr": Measure("APr", "%"),
    "apc": Measure("APc", "%"),
    "apf": Measure("APf", "%"),
    "top_1": Measure("top-1", "%"),
    "top_5": Measure("top-5", "%"),
    "1_box": Measure("1 box", "%"),
    "1_box_oracle": Measure("1 box (oracle)", "%"),
    "1_point": Measure("1 point", "%"),
    "1_point_oracle": Measure("1 point (oracle)", "%"),
    "bleu_1": Measure("BLEU-1", "%"),
    "bleu_2": Measure("BLEU-2", "%"),
    "bleu_3": Measure("BLEU-3", "%"),
}
"""By the names in `scores.json` and in the metrics, in the order to be shown."""
COUNTS = {
    "regions": "regions",
    "named_regions": "of them named",
    "captions": "described",
}
"""Fields of the scores that tell what was measured on."""


@dataclass(frozen=True)
class ScoreRow:
    """One measure of everyone."""

    measure: Measure
    cells: list[str]
    best: int | None
    """Number of the best cell; None where there is nothing to compare."""


@dataclass(frozen=True)
class ScoreTable:
    """Final scores on held-out regions."""

    step: int | None
    columns: list[str]
    rows: list[ScoreRow]
    counts: str


class SuiteRow(NamedTuple):
    """One model's numbers by a suite."""

    model: str
    data: str
    cells: list[str]


@dataclass(frozen=True)
class SuiteTable:
    """A suite of `tap eval`, and the papers' rows that were measured in the same way."""

    title: str
    step: int
    measures: list[Measure]
    rows: list[SuiteRow]
    """The run's own first."""


def score_table(scores: Mapping[str, Any]) -> ScoreTable | None:
    """The table of `scores.json`; None where there is none."""
    columns: dict[str, dict[str, Any]] = {
        name: own for name, own in scores.items() if isinstance(own, dict)
    }
    if not columns:
        return None
    names = dict.fromkeys(name for own in columns.values() for name in own)
    values = {name: [own.get(name) for own in columns.values()] for name in _in_order(names)}
    rows = [
        _score_row(name, own)
        for name, own in values.items()
        if name not in COUNTS and own.count(None) < len(own)
    ]
    first = next(iter(columns.values()))
    counts = [f"{first[name]:,} {what}" for name, what in COUNTS.items() if first.get(name)]
    return ScoreTable(scores.get("step"), list(columns), rows, ", ".join(counts))


def _score_row(name: str, values: Sequence[float | None]) -> ScoreRow:
    measure = _measure(name)
    known = [value for value in values if value is not None]
    best = values.index(max(known)) if len(known) > 1 else None
    return ScoreRow(measure, [_number(value, measure) for value in values], best)


def suite_tables(records: RunRecords) -> list[SuiteTable]:
    """The newest numbers of each suite that was run on the run."""
    newest = {r.kind: r for r in records.metrics if r.kind.startswith(MEASURED_LATER)}
    evaluated = {e["suite"]: e for e in records.events if e.get("kind") == "evaluated"}
    return [
        _suite_table(
            records.run.name,
            kind.removeprefix(MEASURED_LATER),
            record.step,
            record.values,
            evaluated.get(kind.removeprefix(MEASURED_LATER), {}),
        )
        for kind, record in newest.items()
    ]


def _suite_table(
    run: str, suite: str, step: int, values: Mapping[str, float], told: Mapping[str, Any]
) -> SuiteTable:
    names = _in_order(values)
    measures = [_measure(name) for name in names]
    own = [_number(values[name], m) for name, m in zip(names, measures, strict=True)]
    protocol = told.get("protocol")
    rows = [SuiteRow(run, str(told.get("data", ABSENT)), own), *_papers(suite, protocol, measures)]
    return SuiteTable(str(protocol or suite), step, measures, rows)


def _papers(suite: str, protocol: str | None, measures: Sequence[Measure]) -> Iterator[SuiteRow]:
    """The papers' rows of that protocol; their numbers are printed as they are there."""
    for row in PAPER_ROWS:
        if row.suite == suite and row.protocol == protocol:
            cells = [row.metrics.get(measure.title) for measure in measures]
            yield SuiteRow(
                row.model, row.data, [ABSENT if c is None else f"{c:.1f}" for c in cells]
            )


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """Known measures in their order, then the others in theirs."""
    return [name for name in MEASURES if name in names] + [n for n in names if n not in MEASURES]


def _measure(name: str) -> Measure:
    return MEASURES.get(name, Measure(name.replace("_", " "), "", 1.0))


def _number(value: float | None, measure: Measure) -> str:
    if value is None:
        return ABSENT
    return f"{measure.factor * value:.1f}" if measure.unit else f"{value:.4g}"
