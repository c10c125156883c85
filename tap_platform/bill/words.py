"""The numbers of a bill as people read them, the same in every format."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from tap_platform.bill.rows import Bill, Result, Row
from tap_platform.report.tables import MEASURES

ABSENT = "-"
PARTS = {
    "useful": "useful steps",
    "start": "starting",
    "data_wait": "waiting for data",
    "checkpoint": "checkpoints",
    "recovery": "recovery",
    "other": "evaluation and other",
}
"""What machines' time is spent on, in words."""
HEADINGS = {
    "team": "team",
    "project": "project",
    "user": "person",
    "cost_centre": "cost centre",
    "run": "run",
}


class Column(NamedTuple):
    """A column of numbers."""

    title: str
    unit: str = ""


COLUMNS = (
    Column("cost"),
    Column("GPU-hours"),
    Column("machine hours"),
    Column("runs"),
    Column("succeeded", "%"),
    Column("goodput", "%"),
)


def cells(row: Row) -> list[str]:
    """A row's numbers, in the order of `COLUMNS`."""
    return [
        money(row.cost),
        hours(row.gpu_hours),
        hours(row.hours),
        f"{row.runs:,}",
        percent(row.success_rate),
        percent(row.goodput.get("useful")),
    ]


def money(cost: Mapping[str, float]) -> str:
    """Sums by currency: `1,234.50 USD + 3.00 EUR`."""
    told = [f"{value:,.2f} {currency}" for currency, value in sorted(cost.items())]
    return " + ".join(told) or ABSENT


def hours(value: float) -> str:
    """Hours with as many digits as matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.2f}"


def percent(share: float | None) -> str:
    """A share from 0 to 1 as a number of hundredths."""
    return ABSENT if share is None else f"{100 * share:.0f}"


def best_in_words(best: tuple[Result, ...]) -> list[str]:
    """`mask mIoU by box 69.4 % (run-1)`."""
    told = []
    for measure, value, run in best:
        kind, _, name = measure.partition("/")
        shown = MEASURES.get(name)
        where = {"final": "", "val": " (while training)"}.get(kind, f" ({kind[5:]})")
        title = f"{shown.title if shown else name}{where}"
        number = f"{shown.factor * value:.1f} {shown.unit}" if shown else f"{value:.4g}"
        told.append(f"{title} {number.removesuffix(' x 100')}: {run}")
    return told


def period(bill: Bill) -> str:
    """From when to when."""
    until = _minute(bill.until)
    return f"until {until}" if bill.since is None else f"{_minute(bill.since)} to {until}"


def lacks(bill: Bill) -> list[str]:
    """What the numbers leave out, in sentences."""
    told = []
    if unpriced := bill.total.unpriced:
        what = "1 run has" if unpriced == 1 else f"{unpriced:,} runs have"
        told.append(
            f"{what} no price, and the cost lacks it: a profile with prices, or"
            " TAP_PRICE_PER_HOUR, tells it"
        )
    told += [
        f"{fault.path}: {fault.why.replace(f'{fault.path}/', '')}"
        f"{' (left out)' if fault.skipped else ''}"
        for fault in bill.faults
    ]
    return told


def _minute(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
