"""The tables of an ablation: means over seeds with their spread, and whether an order came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

from rich.table import Table

from tap_platform.config.ablation import AblationConfig, AblationTable, Measure, Variant
from tap_platform.launch.ablation_units import Scores
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import write_atomic, write_json

Variants = Mapping[str, Variant]


def write_tables(config: AblationConfig, parent: RunDirectory, scores: Scores) -> Path:
    """Write what is there so far to `report/ablation.md`, and every score to `ablation.json`."""
    parts = [markdown_table(table, config.variants, scores) for table in config.tables]
    seeds = ", ".join(map(str, config.seeds))
    head = f"# {parent.name}\n\nMean and standard deviation over the seeds {seeds}.\n"
    path = parent.report / "ablation.md"
    write_atomic(path, "\n".join([head, *parts]).encode())
    write_json(path.with_suffix(".json"), [_plain(table, scores) for table in config.tables])
    return path


def _plain(table: AblationTable, scores: Scores) -> dict[str, object]:
    rows = {
        variant: {measure.title: scores(variant, measure) for measure in table.measures}
        for variant in table.variants
    }
    return {"title": table.title, "scores": rows, "verdicts": verdicts(table, scores)}


def rich_table(table: AblationTable, variants: Variants, scores: Scores) -> Table:
    """A table for the terminal."""
    shown = Table(title=table.title, title_justify="left")
    shown.add_column("")
    shown.add_column("variant", overflow="fold")
    for measure in table.measures:
        shown.add_column(measure.title, justify="right")
    for row in _rows(table, variants, scores):
        shown.add_row(*row)
    return shown


def markdown_table(table: AblationTable, variants: Variants, scores: Scores) -> str:
    """The same table in Markdown, with its verdicts below."""
    head = ["", "variant", *(measure.title for measure in table.measures)]
    rows = _rows(table, variants, scores)
    lines = [
        f"### {table.title}",
        "",
        "| " + " | ".join(head) + " |",
        "|---|---|" + "---:|" * len(table.measures),
        *("| " + " | ".join(map(_in_a_cell, row)) + " |" for row in rows),
    ]
    told = [f"- {line}" for line in verdicts(table, scores)]
    return "\n".join([*lines, "", *told, ""] if told else [*lines, ""])


def _in_a_cell(text: str) -> str:
    return text.replace("|", r"\|")


def _rows(table: AblationTable, variants: Variants, scores: Scores) -> list[list[str]]:
    return [
        [
            variant,
            variants[variant].about,
            *(mean_and_spread(scores(variant, each), each) for each in table.measures),
        ]
        for variant in table.variants
    ]


def mean_and_spread(values: Sequence[float | None], measure: Measure) -> str:
    """`41.2 ± 0.8 %`: the mean over seeds and their standard deviation; `-` without any value.

    One seed has no spread to show, and a seed that is missing is told.
    """
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    text = f"{100 * mean(there):.1f}"
    if len(there) > 1:
        text += f" ± {100 * stdev(there):.1f}"
    lacking = len(values) - len(there)
    return f"{text} {measure.unit}".rstrip() + (
        f" ({len(there)} of {len(values)} seeds)" if lacking else ""
    )


def verdicts(table: AblationTable, scores: Scores) -> list[str]:
    """For each step of a rising order: how it came out by every measure, pairwise by seed."""
    if not table.rising:
        return []
    return [
        _verdict(lower, upper, measure, scores)
        for measure in table.measures
        for lower, upper in pairwise(table.variants)
        if any(value is not None for value in scores(lower, measure))
    ]


def _verdict(lower: str, upper: str, measure: Measure, scores: Scores) -> str:
    """One step. Where seeds do not agree on its sign, it is left undecided."""
    pairs = zip(scores(lower, measure), scores(upper, measure), strict=True)
    steps = [high - low for low, high in pairs if low is not None and high is not None]
    where = f"{measure.title}: {lower} to {upper}"
    if not steps:
        return f"{where}: not measured"
    rises = sum(step > 0 for step in steps)
    word = "rises" if rises == len(steps) else "does not rise" if not rises else "is undecided"
    sizes = ", ".join(f"{100 * step:+.1f}" for step in steps)
    return f"{where}: {word}, {rises} of {len(steps)} seeds ({sizes})"
