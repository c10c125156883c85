"""What the first page says before its table: how much, what runs now, what failed lately."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tap_platform.bill.page import Figure
from tap_platform.bill.rows import Bill, Row, make_bill
from tap_platform.bill.words import hours, percent
from tap_platform.dashboard.collect import Collected
from tap_platform.dashboard.lines import Line, lines_of
from tap_platform.dashboard.words import counted, price, seconds_of, span

LATELY_DAYS = 7
"""Failures that are younger are news."""
MOST_SHOWN = 6
"""Lines of what runs, and of what failed, above the table."""
MOST_BARS = 8
"""Projects whose goodput is drawn, those of the most hours."""


@dataclass(frozen=True)
class Overview:
    """The first page."""

    lines: Sequence[Line]
    running: Sequence[Line]
    """What goes on now, wholes only: what ends first, first."""
    failed: Sequence[Line]
    """What failed lately, the newest first."""
    figures: Sequence[Figure]
    bars: Sequence[Row]
    """Goodput of all runs, and of each project."""


def overview_of(collected: Collected) -> Overview:
    """The first page of what was collected."""
    lines = lines_of(collected)
    since = collected.read - LATELY_DAYS * 86_400
    running = [line for line in lines if line.goes_on and not line.is_part]
    running.sort(key=lambda line: (line.hours_to_go is None, line.hours_to_go or 0.0))
    failed = [
        line
        for line in lines
        if line.state in ("failed", "lost") and seconds_of(line.updated) >= since
    ]
    bill = make_bill(collected.ledger, "project")
    return Overview(lines, running, failed, _figures(bill, running, failed), _bars(bill))


def _bars(bill: Bill) -> list[Row]:
    longest = sorted((row for row in bill.rows if row.goodput), key=lambda row: -row.hours)
    whole = [replace(bill.total, name="all runs")] if bill.total.goodput else []
    return [*whole, *longest[:MOST_BARS]] if len(longest) > 1 else whole


def _figures(bill: Bill, running: Sequence[Line], failed: Sequence[Line]) -> list[Figure]:
    total, useful = bill.total, bill.total.goodput.get("useful")
    lost = total.states.get("failed", 0) + total.states.get("lost", 0)
    lately = sum(line.kind not in ("sweep", "pipeline") for line in failed)  # as the bill counts
    ends = [line.hours_to_go for line in running if line.hours_to_go is not None]
    last = f"runs and sweeps, up to {span(max(ends))} more" if ends else "runs and sweeps"
    return [
        Figure("going on", f"{len(running):,}", last if running else "nothing runs now"),
        Figure("cost to date", price(total.cost), _unpriced(total)),
        Figure("cost to go", price(sum_up(line.cost_to_go for line in running)), "at today's pace"),
        Figure("GPU-hours", hours(total.gpu_hours), f"in {hours(total.hours)} machine hours"),
        Figure("goodput", _share(useful), "of machines' time in useful steps"),
        Figure(
            "succeeded",
            _share(total.success_rate),
            f"{lost:,} of {counted(total.runs, 'run')} failed, {lately:,} this week",
        ),
    ]


def _unpriced(total: Row) -> str:
    if not total.unpriced:
        return "of the machines of all runs"
    return f"without {counted(total.unpriced, 'run')} that {_have(total.unpriced)} no price"


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{percent(share)} %"


def sum_up(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums by currency."""
    found: dict[str, float] = {}
    for part in parts:
        for currency, cost in part.items():
            found[currency] = found.get(currency, 0.0) + cost
    return found
