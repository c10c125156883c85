"""The report of an evaluation: JSON, tables beside the papers' rows, and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from rich.table import Table

from tap_platform.evaluation.suites.cards import best_and_worst, draw_cases
from tap_platform.evaluation.suites.ground_truth import GroundTruth, ImageId
from tap_platform.evaluation.suites.papers import rows_of
from tap_platform.evaluation.suites.suite import SuiteResult
from tap_platform.evaluation.suites.view import read_pixels
from tap_platform.prediction.images import Pixels
from tap_platform.runs.files import write_atomic, write_json, write_picture

SHOWN = 8
"""Cases in a picture."""


class Evaluation(NamedTuple):
    """What was evaluated, on what, and how well."""

    model: str
    """Where the weights come from."""
    data: str
    """Where the ground truth comes from."""
    results: Sequence[SuiteResult]
    skipped: Mapping[str, str]
    """Why a suite was left out, by suite."""
    warning: str | None = None
    """What makes the numbers look better than they are."""


class Row(NamedTuple):
    """One line of a table."""

    model: str
    data: str
    metrics: Mapping[str, float | None]
    """In percent."""
    comparable: bool
    """Whether the protocol is that of our row."""


def write_report(evaluation: Evaluation, truth: GroundTruth, out: Path) -> list[Path]:
    """Write `report.json`, `report.md`, the predictions and the pictures to a folder.

    Returns:
        The pictures: `SUITE-best.png` and `SUITE-worst.png`.

    Raises:
        OSError: if the folder cannot be written to.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", report_dict(evaluation))
    write_atomic(out / "report.md", report_markdown(evaluation).encode())
    for result in evaluation.results:
        if result.predictions:
            found = orjson.dumps(result.predictions)
            write_atomic(out / f"{result.suite}-predictions.json", found)
    return [path for result in evaluation.results for path in _write_pictures(result, truth, out)]


def report_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but cases and predictions, ready for JSON; shares from 0 to 1."""
    return {
        "model": evaluation.model,
        "data": evaluation.data,
        "warning": evaluation.warning,
        "suites": {
            result.suite: {
                "protocol": result.protocol,
                "metrics": result.metrics,
                "counts": result.counts,
                "settings": result.settings,
                "notes": list(result.notes),
                "papers_in_percent": [row._asdict() for row in rows_of(result.suite)],
            }
            for result in evaluation.results
        },
        "skipped": dict(evaluation.skipped),
    }


def report_markdown(evaluation: Evaluation) -> str:
    """The tables in Markdown."""
    parts = [f"# {evaluation.model}", ""]
    if evaluation.warning:
        parts += [f"**{evaluation.warning}**", ""]
    for result in evaluation.results:
        columns = list(result.metrics)
        parts += [
            f"## {result.protocol}",
            "",
            "| " + " | ".join(["model", "data", *columns]) + " |",
            "|---|---|" + "---:|" * len(columns),
        ]
        for row in table_rows(result, evaluation):
            cells = [row.model, row.data, *(_number(row.metrics.get(name)) for name in columns)]
            parts.append("| " + " | ".join(cells) + " |")
        parts += ["", _caption(result), ""]
    parts += [f"- {suite} was left out: {why}" for suite, why in evaluation.skipped.items()]
    return "\n".join(parts).strip() + "\n"


def report_tables(evaluation: Evaluation) -> Iterator[Table]:
    """A table for the terminal for each suite; rows that do not compare are dim."""
    for result in evaluation.results:
        title = f"{evaluation.model}: {result.protocol}"
        table = Table(title=title, caption=_caption(result), caption_justify="left")
        table.add_column("model", no_wrap=True)
        table.add_column("data")
        for name in result.metrics:
            table.add_column(name, justify="right")
        for number, row in enumerate(table_rows(result, evaluation)):
            cells = [_number(row.metrics.get(name)) for name in result.metrics]
            style = "bold" if number == 0 else None if row.comparable else "dim"
            model = "this model" if number == 0 else row.model
            table.add_row(model, row.data, *cells, style=style)
        yield table


def table_rows(result: SuiteResult, evaluation: Evaluation) -> list[Row]:
    """Our row, then the papers', in percent; papers with our protocol come first."""
    own = {name: None if x is None else 100 * x for name, x in result.metrics.items()}
    papers = [
        Row(row.model, row.data, row.metrics, row.protocol == result.protocol)
        for row in rows_of(result.suite)
    ]
    papers.sort(key=lambda row: not row.comparable)
    return [Row(evaluation.model, evaluation.data, own, True), *papers]


def _number(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.1f}"


def _caption(result: SuiteResult) -> str:
    counts = ", ".join(f"{count} {what}" for what, count in result.counts.items())
    other = any(row.protocol != result.protocol for row in rows_of(result.suite))
    return "; ".join(
        [
            f"in percent; {counts}",
            *result.notes,
            *(["some of the papers' rows are of another protocol or data"] if other else []),
        ]
    )


def _write_pictures(result: SuiteResult, truth: GroundTruth, out: Path) -> Iterator[Path]:
    def pixels(image_id: ImageId) -> Pixels:
        return read_pixels(truth.places[image_id], image_id, None)

    named = zip(("best", "worst"), best_and_worst(result.cases, SHOWN), strict=True)
    for name, cases in named:
        if cases:
            path = out / f"{result.suite}-{name}.png"
            write_picture(path, draw_cases(cases, pixels))
            yield path
