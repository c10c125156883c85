"""A bill as Markdown, for people and issues, and as CSV, for tables."""

from __future__ import annotations

import csv
import io

from tap_platform.bill.rows import Bill, Row
from tap_platform.bill.words import (
    COLUMNS,
    HEADINGS,
    PARTS,
    best_in_words,
    cells,
    lacks,
    money,
    percent,
    period,
)
from tap_platform.runs.account import AccountState

_STATES: tuple[AccountState, ...] = (
    "finished",
    "failed",
    "interrupted",
    "lost",
    "running",
    "preparing",
)


def as_markdown(bill: Bill) -> str:
    """The whole bill."""
    titles = [f"{column.title}{f', {column.unit}' if column.unit else ''}" for column in COLUMNS]
    rows = [[_escaped(row.name), *cells(row)] for row in bill.rows]
    parts = ["", f"# Bill of {_escaped(bill.folder)}", "", f"{period(bill)}.", ""]
    parts += _table([HEADINGS[bill.by], *titles], [*rows, ["**all**", *cells(bill.total)]])
    if bill.total.goodput:
        parts += ["", "## Where the time of machines went", ""]
        shares = [
            [_escaped(row.name), *(percent(row.goodput.get(part)) for part in PARTS)]
            for row in (*bill.rows, bill.total)
            if row.goodput
        ]
        parts += _table([f"{HEADINGS[bill.by]}, %", *PARTS.values()], shares)
    if results := [line for row in bill.rows for line in _results(row)]:
        parts += ["", "## Best results", "", *results]
    if bill.dearest and bill.by != "run":
        parts += ["", "## Runs that took the most", ""]
        runs = [
            [
                _escaped(account.name),
                _escaped(account.owner),
                account.state,
                money({} if within.cost is None else {account.currency or "": within.cost}),
                f"{within.gpu_hours:,.1f}",
                f"{within.hours:,.1f}",
                _escaped(account.cause),
            ]
            for account, within in bill.dearest
        ]
        head = ["run", "owner", "state", "cost", "GPU-hours", "machine hours", "why"]
        parts += _table(head, runs, words=(0, 1, 2, 6))
    if left_out := lacks(bill):
        parts += ["", "## What is missing", "", *(f"- {_escaped(line)}" for line in left_out)]
    return "\n".join(parts[1:]) + "\n"


def as_csv(bill: Bill) -> str:
    """One line a row, and no total: tables make their own. A row has a line for each currency."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    shares = [f"share_{part}" for part in PARTS]
    counts = ["gpu_hours", "machine_hours", "runs", *_STATES, "success_rate", "runs_without_price"]
    writer.writerow([bill.by, "currency", "cost", *counts, *shares])
    for row in bill.rows:
        # Hours and runs stand on the first line alone, so that columns can be summed.
        for place, (currency, cost) in enumerate(row.cost.items() or [("", None)]):
            told = "" if cost is None else f"{cost:.4f}"
            writer.writerow(
                [_harmless(row.name), currency, told, *(_numbers(row) if not place else [])]
            )
    return out.getvalue()


def _numbers(row: Row) -> list[str]:
    rate = row.success_rate
    return [
        f"{row.gpu_hours:.4f}",
        f"{row.hours:.4f}",
        str(row.runs),
        *(str(row.states.get(state, 0)) for state in _STATES),
        "" if rate is None else f"{rate:.4f}",
        str(row.unpriced),
        *(f"{row.goodput[part]:.4f}" if row.goodput else "" for part in PARTS),
    ]


def _results(row: Row) -> list[str]:
    return [f"- {_escaped(row.name)}: {_escaped(line)}" for line in best_in_words(row.best)]


def _table(head: list[str], rows: list[list[str]], words: tuple[int, ...] = (0,)) -> list[str]:
    rule = ["---" if place in words else "---:" for place, _ in enumerate(head)]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]


def _escaped(text: str) -> str:
    """Text of people within a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _harmless(name: str) -> str:
    """Programs for tables take a name that begins so for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name
