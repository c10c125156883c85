"""A comparison as Markdown, for the terminal and for issues."""

from __future__ import annotations

from collections.abc import Sequence

from tap_platform.compare import words
from tap_platform.compare.measures import Cell, Measure, measures
from tap_platform.compare.runs import Column, ComparedRun, columns_of
from tap_platform.compare.settings import differences
from tap_platform.report.markdown import escaped, markdown_table

_SPREADS = (
    "± is the standard deviation: between runs that differ in their seeds alone, else of a run's"
    " last records. In brackets is the difference to the first column, bold where it is more than"
    " both spreads explain."
)


def as_markdown(runs: Sequence[ComparedRun]) -> str:
    """What is set differently, and what came out; runs of one experiment share a letter."""
    columns = columns_of(runs)
    letters = [column.letter for column in columns]
    parts = [f"# {len(runs)} runs side by side", ""]
    for column in columns:
        parts += [f"- **{column.letter}** {_told(run)}" for run in column.runs]
    parts += ["", "## What is set differently", "", *_settings(columns, letters)]
    measured = measures(columns)
    results = [each for each in measured if each.is_result]
    parts += ["", "## What came out", "", *_table(results, letters), "", _SPREADS]
    if details := [each for each in measured if not each.is_result]:
        parts += ["", "## How they trained", "", *_table(details, letters)]
    if faults := [fault for run in runs for fault in run.faults]:
        parts += ["", "## What could not be read", "", *(f"- {escaped(each)}" for each in faults)]
    return "\n".join(parts) + "\n"


def _told(run: ComparedRun) -> str:
    account = run.account
    cause = f": {account.cause}" if account.cause else ""
    return escaped(f"{run.title}, {account.state}{cause}")


def _settings(columns: Sequence[Column], letters: Sequence[str]) -> list[str]:
    found = differences(columns)
    if not found:
        return ["Nothing: settings, code, data and packages are the same."]
    rows = [[escaped(key), *map(escaped, values)] for key, values in found]
    return markdown_table(["setting", *letters], rows, words=range(len(letters) + 1))


def _table(measured: Sequence[Measure], letters: Sequence[str]) -> list[str]:
    rows = [
        [escaped(words.title(each)), *(_cell(each, cell) for cell in each.cells)]
        for each in measured
    ]
    return markdown_table(["measure", *letters], rows)


def _cell(measure: Measure, cell: Cell) -> str:
    apart = words.difference(measure, cell)
    if not apart:
        return words.value(measure, cell)
    return f"{words.value(measure, cell)} ({f'**{apart}**' if cell.clear else apart})"
