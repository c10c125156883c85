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
from tap_platform.report.markdown import escaped, markdown_table
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
    rows = [[escaped(row.name), *map(escaped, cells(row))] for row in bill.rows]
    parts = ["", f"# Bill of {escaped(bill.folder)}", "", f"{period(bill)}.", ""]
    parts += markdown_table(
        [HEADINGS[bill.by], *titles], [*rows, ["**all**", *map(escaped, cells(bill.total))]]
    )
    if bill.total.goodput:
        parts += ["", "## Where the time of machines went", ""]
        shares = [
            [escaped(row.name), *(percent(row.goodput.get(part)) for part in PARTS)]
            for row in (*bill.rows, bill.total)
            if row.goodput
        ]
        parts += markdown_table([f"{HEADINGS[bill.by]}, %", *PARTS.values()], shares)
    if results := [line for row in bill.rows for line in _results(row)]:
        parts += ["", "## Best results", "", *results]
    if bill.dearest and bill.by != "run":
        parts += ["", "## Runs that took the most", ""]
        runs = [
            [
                escaped(account.name),
                escaped(account.owner),
                account.state,
                escaped(
                    money({} if within.cost is None else {account.currency or "": within.cost})
                ),
                f"{within.gpu_hours:,.1f}",
                f"{within.hours:,.1f}",
                escaped(account.cause),
            ]
            for account, within in bill.dearest
        ]
        head = ["run", "owner", "state", "cost", "GPU-hours", "machine hours", "why"]
        parts += markdown_table(head, runs, words=(0, 1, 2, 6))
    if left_out := lacks(bill):
        parts += ["", "## What is missing", "", *(f"- {escaped(line)}" for line in left_out)]
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
            who = [_harmless(row.name), _harmless(currency)]
            writer.writerow([*who, told, *(_numbers(row) if not place else [])])
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
    return [f"- {escaped(row.name)}: {escaped(line)}" for line in best_in_words(row.best)]


def _harmless(name: str) -> str:
    """A name on one line; programs for tables take one that begins so for a formula."""
    line = " ".join(name.split())
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
