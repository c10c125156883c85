"""Scores side by side: for the terminal, for a report and for a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from tap_platform.evaluation.captions import CaptionedAnswer, ScoredCaptions
from tap_platform.evaluation.scores import RegionScores

Columns = Mapping[str, RegionScores]
"""Scores by the name of who got them, in the order of the columns, say `trained`, `untrained`,
`trivial baseline`. The first is the one that the others are compared with."""


class Row(NamedTuple):
    """A measure that is shown."""

    title: str
    field: str
    """Of `RegionScores`."""
    unit: str = " %"
    """What follows the value times 100; the metrics of texts are written without, as in papers."""


ROWS = (
    Row("mask mIoU by box", "box_iou"),
    Row("mask mIoU by one point", "point_iou"),
    Row("concept top-1", "concept_top1"),
)
CAPTION_ROWS = (
    Row("CIDEr", "cider", unit=""),
    Row("METEOR", "meteor", unit=""),
    Row("captions that name the concept", "names_concept"),
)
"""Shown where a model speaks."""
SHOWN_CAPTIONS = 10


def score_table(columns: Columns, title: str | None = None, notes: Sequence[str] = ()) -> Table:
    """A table for the terminal: a row for each measure, times 100, the best of a row in bold.

    Args:
        columns: the scores.
        title: stands above.
        notes: what a reader of the numbers must know.
    """
    table = Table(title=title, caption=_caption(columns, notes), caption_justify="left")
    table.add_column("held-out regions")
    for name in columns:
        table.add_column(name, justify="right")
    for row in _rows(columns):
        values = [getattr(scores, row.field) for scores in columns.values()]
        best = max((value for value in values if value is not None), default=None)
        cells = [_hundredfold(value, row.unit) for value in values]
        table.add_row(
            row.title,
            *(
                f"[bold green]{cell}[/]" if value == best is not None else cell
                for cell, value in zip(cells, values, strict=True)
            ),
        )
    return table


def score_markdown(columns: Columns, notes: Sequence[str] = ()) -> str:
    """The same table in Markdown."""
    lines = [
        "| " + " | ".join(["held-out regions", *columns]) + " |",
        "|" + "---|" + "---:|" * len(columns),
    ]
    for row in _rows(columns):
        values = (getattr(scores, row.field) for scores in columns.values())
        cells = (_hundredfold(value, row.unit) for value in values)
        lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _caption(columns, notes)])


def score_dict(columns: Columns) -> dict[str, dict[str, Any]]:
    """Every score by column and name, ready for JSON; shares from 0 to 1."""
    return {name: asdict(scores) for name, scores in columns.items()}


def caption_table(answers: Sequence[CaptionedAnswer], scored: ScoredCaptions) -> Table:
    """The first captions beside the truth, in order, not picked."""
    shown = min(SHOWN_CAPTIONS, len(answers))
    table = Table(
        title=f"the first {shown} captions", caption="in order, not picked", caption_justify="left"
    )
    for name in ("image", "people say", "the model says"):
        table.add_column(name, overflow="fold")
    table.add_column("CIDEr", justify="right")
    for answer, cider in islice(zip(answers, scored.cider, strict=True), SHOWN_CAPTIONS):
        said = Text("\n".join(answer.references))
        table.add_row(Text(answer.image), said, Text(answer.caption), f"{100 * cider:.0f}")
    return table


def _rows(columns: Columns) -> list[Row]:
    return [*ROWS, *(row for row in CAPTION_ROWS if _is_known(columns, row))]


def _is_known(columns: Columns, row: Row) -> bool:
    return any(getattr(scores, row.field) is not None for scores in columns.values())


def _hundredfold(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{100 * value:.1f}{unit}"


def _caption(columns: Columns, notes: Sequence[str]) -> str:
    scores = next(iter(columns.values()))
    parts = [f"{scores.regions} regions, {scores.named_regions} of them named"]
    if scores.captions:
        parts.append(f"{scores.captions} described; CIDEr and METEOR times 100, as in papers")
    return "; ".join([*parts, *notes])
