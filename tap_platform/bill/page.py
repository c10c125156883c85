"""A bill as one HTML page: no script, no address outside of it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from tap_platform.bill.rows import Bill, Row
from tap_platform.bill.words import (
    COLUMNS,
    HEADINGS,
    PARTS,
    best_in_words,
    cells,
    hours,
    lacks,
    money,
    percent,
    period,
)
from tap_platform.report.cards import shortened
from tap_platform.report.style import style_sheet


class Figure(NamedTuple):
    """A number at the head of the page."""

    label: str
    value: str
    more: str = ""


def render_bill(bill: Bill) -> str:
    """The page as HTML; text is escaped."""
    environment = Environment(
        loader=PackageLoader("tap_platform.bill", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(
        short=shortened, cells=cells, best=best_in_words, parts=_widths, hours=hours, money=money
    )
    own = (files("tap_platform.bill") / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(
        bill=bill,
        style=f"{style_sheet()}\n{own}",
        heading=HEADINGS[bill.by],
        period=period(bill),
        figures=_figures(bill.total),
        columns=COLUMNS,
        part_names=PARTS,
        lacks=lacks(bill),
        all_rows=(*bill.rows, bill.total),
        has_results=any(row.best for row in bill.rows),
    )


def _figures(total: Row) -> list[Figure]:
    states = total.states
    failed = states.get("failed", 0) + states.get("lost", 0)
    going = states.get("running", 0) + states.get("preparing", 0)
    useful = total.goodput.get("useful")
    return [
        Figure("cost", money(total.cost), "of the machines of all runs"),
        Figure("GPU-hours", hours(total.gpu_hours), f"in {hours(total.hours)} machine hours"),
        Figure("goodput", _percent(useful), "of the machines' time in useful steps"),
        Figure("succeeded", _percent(total.success_rate), f"{failed:,} failed or lost"),
        Figure("runs", f"{total.runs:,}", f"{going:,} of them going on"),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{percent(share)} %"


def _widths(shares: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Parts of a bar that are there: name, width and what it tells."""
    return [
        (part, f"{100 * shares[part]:.2f}", f"{title}: {100 * shares[part]:.1f} %")
        for part, title in PARTS.items()
        if shares.get(part)
    ]
