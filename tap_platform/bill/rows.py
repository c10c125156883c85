"""Accounts of runs summed up by who pays for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tap_platform.runs.account import AccountState, RunAccount, Spending
from tap_platform.runs.ledger import Fault, Ledger

By = Literal["team", "project", "user", "cost_centre", "run"]
UNKNOWN = "(not told)"
BEST = (
    "final/box_iou",
    "final/concept_top1",
    "final/cider",
    "eval_instances/ap",
    "eval_classification/top_1",
    "eval_captions/cider",
    "val/box_iou",
)
"""Measures that a bill tells of, the first ones that there are; larger ones are better."""
MOST_BEST = 3


class Spent(NamedTuple):
    """A run, and what it took within the period."""

    account: RunAccount
    within: Spending


class Result(NamedTuple):
    """The best value of a measure."""

    measure: str
    value: float
    run: str


@dataclass(frozen=True)
class Row:
    """Runs of one payer, summed up."""

    name: str
    runs: int
    """Runs that did something in the period; pipelines count by their stages."""
    states: Mapping[AccountState, int]
    hours: float
    """Of machines."""
    gpu_hours: float
    cost: Mapping[str, float]
    """By currency."""
    unpriced: int
    """Runs whose price nobody has told: the cost lacks them."""
    goodput: Mapping[str, float]
    """Shares of the machines' time, from 0 to 1, by what it was spent on; `useful` first."""
    best: tuple[Result, ...]

    @property
    def success_rate(self) -> float | None:
        """The share of finished runs among those that finished, failed or were lost.

        Runs that people or a sweep have stopped count for neither. None where there are none.
        """
        finished = self.states.get("finished", 0)
        ended = finished + self.states.get("failed", 0) + self.states.get("lost", 0)
        return finished / ended if ended else None


@dataclass(frozen=True)
class Bill:
    """What all runs of a storage took between two moments."""

    folder: str
    by: By
    since: float | None
    """Seconds since 1970; None: from the first run on."""
    until: float
    rows: tuple[Row, ...]
    """The dearest first; of equal cost, those with more GPU-hours, then more hours."""
    total: Row
    dearest: tuple[Spent, ...]
    """Runs that took the most."""
    faults: tuple[Fault, ...]


def make_bill(ledger: Ledger, by: By, since: float | None = None, most_runs: int = 20) -> Bill:
    """Sum up a ledger.

    Args:
        ledger: all runs.
        by: who a row is of.
        since: when the period begins, seconds since 1970; hours before it do not count.
        most_runs: how many single runs are told of.
    """
    spent = [Spent(account, account.spent(since)) for account in ledger.accounts]
    told = [each for each in spent if not each.account.holds_runs and _is_within(each, since)]
    groups: defaultdict[str, list[Spent]] = defaultdict(list)
    for each in told:
        groups[_payer(each.account, by)].append(each)
    rows = [_row(name, own) for name, own in groups.items()]
    return Bill(
        folder=ledger.folder,
        by=by,
        since=since,
        until=ledger.read,
        rows=tuple(sorted(rows, key=_dearest_row)),
        total=_row("all", told),
        dearest=tuple(sorted(told, key=_dearest)[:most_runs]),
        faults=ledger.faults,
    )


def _is_within(each: Spent, since: float | None) -> bool:
    if since is None or each.within.hours > 0:
        return True
    return any(span.end >= since for span in each.account.machines)


def _payer(account: RunAccount, by: By) -> str:
    names: dict[By, str] = {
        "team": account.team,
        "project": account.project,
        "user": account.owner.partition("@")[0],
        "cost_centre": account.cost_centre,
        "run": account.name,
    }
    return names[by] or UNKNOWN


def _dearest(each: Spent) -> tuple[float, float, float, str]:
    within = each.within
    return -(within.cost or 0.0), -within.gpu_hours, -within.hours, each.account.name


def _dearest_row(row: Row) -> tuple[float, float, float, str]:
    return -sum(row.cost.values()), -row.gpu_hours, -row.hours, row.name


def _row(name: str, own: Sequence[Spent]) -> Row:
    cost: defaultdict[str, float] = defaultdict(float)
    states: defaultdict[AccountState, int] = defaultdict(int)
    for account, within in own:
        states[account.state] += 1
        if within.cost is not None:
            cost[account.currency or ""] += within.cost
    return Row(
        name=name,
        runs=len(own),
        states=dict(states),
        hours=sum(each.within.hours for each in own),
        gpu_hours=sum(each.within.gpu_hours for each in own),
        cost=dict(cost),
        unpriced=sum(each.within.cost is None and each.within.hours > 0 for each in own),
        goodput=_goodput(own),
        best=_best(each.account for each in own),
    )


def _goodput(own: Iterable[Spent]) -> dict[str, float]:
    """Shares of the runs, each by its hours in the period."""
    hours: defaultdict[str, float] = defaultdict(float)
    for account, within in own:
        for part, share in account.goodput.shares.items():
            hours[part] += share * within.hours
    whole = sum(hours.values())
    return {part: value / whole for part, value in hours.items()} if whole else {}


def _best(accounts: Iterable[RunAccount]) -> tuple[Result, ...]:
    found: dict[str, Result] = {}
    for account in accounts:
        for measure in BEST:
            value = account.results.get(measure)
            before = found.get(measure)
            if value is not None and (before is None or value > before.value):
                found[measure] = Result(measure, value, account.name)
    return tuple(found[measure] for measure in BEST if measure in found)[:MOST_BEST]
