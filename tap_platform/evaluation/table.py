"""Scores side by side: for the terminal, for a report and for a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from tap_platform.evaluation.scores import RegionScores

Columns = Mapping[str, RegionScores]
"""Scores by the name of who got them, in the order of the columns, say `trained`, `untrained`,
`trivial baseline`. The first is the one that the others are compared with."""

ROWS = {
    "mask mIoU by box": "box_iou",
    "mask mIoU by one point": "point_iou",
    "concept top-1": "concept_top1",
}
"""The measures that are shown, by their titles."""


def score_table(columns: Columns, title: str | None = None) -> Table:
    """A table for the terminal: a row for each measure, in percent, the best of a row in bold."""
    table = Table(title=title, caption=_caption(columns), caption_justify="left")
    table.add_column("held-out regions")
    for name in columns:
        table.add_column(name, justify="right")
    for label, field in ROWS.items():
        values = [getattr(scores, field) for scores in columns.values()]
        best = max((value for value in values if value is not None), default=None)
        cells = [_percent(value) for value in values]
        table.add_row(
            label,
            *(
                f"[bold green]{cell}[/]" if value == best is not None else cell
                for cell, value in zip(cells, values, strict=True)
            ),
        )
    return table


def score_markdown(columns: Columns) -> str:
    """The same table in Markdown."""
    lines = [
        "| " + " | ".join(["held-out regions", *columns]) + " |",
        "|" + "---|" + "---:|" * len(columns),
    ]
    for label, field in ROWS.items():
        cells = (_percent(getattr(scores, field)) for scores in columns.values())
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _caption(columns)])


def score_dict(columns: Columns) -> dict[str, dict[str, Any]]:
    """Every score by column and name, ready for JSON; shares from 0 to 1."""
    return {name: asdict(scores) for name, scores in columns.items()}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _caption(columns: Columns) -> str:
    scores = next(iter(columns.values()))
    return f"{scores.regions} regions, {scores.named_regions} of them named"
