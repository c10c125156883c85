"""The page of a sweep: its drawings, and its trials ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tap_platform.bill.page import Figure
from tap_platform.bill.words import ABSENT, hours
from tap_platform.dashboard.collect import Collected, ListedSweep
from tap_platform.dashboard.importance import Importance, importance_of
from tap_platform.dashboard.plots import best_so_far, importance_bars, parallel_coordinates
from tap_platform.dashboard.sweeps import SweepAccount, costs
from tap_platform.dashboard.words import number, price, slug, span


class Plot(NamedTuple):
    """One drawing."""

    name: str
    """Plain, of the page's own."""
    title: str
    note: str
    figure: str
    """JSON; empty where there is nothing to draw, and the note says why."""
    width: int = 0
    """Pixels that it needs at least; 0: as wide as there is room."""


class TrialRow(NamedTuple):
    """One trial in the table."""

    trial: str
    page: str
    """Of its run; empty before that has a directory."""
    state: str
    reason: str
    objective: str
    step: int
    values: list[str]
    gpu_hours: str
    cost: str


@dataclass(frozen=True)
class SweepView:
    """Everything on the page."""

    listed: ListedSweep
    figures: Sequence[Figure]
    keys: Sequence[str]
    rows: Sequence[TrialRow]
    plots: Sequence[Plot]


def sweep_view(listed: ListedSweep, collected: Collected) -> SweepView:
    """The page of a sweep."""
    sweep = listed.account
    keys = list(sweep.config.space)
    place = collected.storages.index(listed.storage)
    return SweepView(listed, _figures(sweep), keys, _rows(sweep, keys, place), _plots(sweep))


def _figures(sweep: SweepAccount) -> list[Figure]:
    best, objective = sweep.best, sweep.config.objective
    over = sum(record.is_over for record in sweep.trials)
    of = "" if sweep.total is None else f" of {sweep.total:,}"
    states = [record.state for record in sweep.trials]
    failed, stopped = states.count("failed"), states.count("stopped")
    to_go = price(sweep.cost_to_go)
    wanted = "highest" if objective.mode == "max" else "lowest"
    return [
        Figure(
            f"best {objective.metric}",
            ABSENT if best is None else number(best.objective),
            f"{best.trial}, step {best.step:,}" if best else f"the {wanted} is wanted",
        ),
        Figure("trials over", f"{over:,}{of}", f"{stopped:,} stopped early, {failed:,} failed"),
        Figure("time", span(sweep.hours), _until(sweep)),
        Figure("GPU-hours", hours(sweep.gpu_hours), "of all trials"),
        Figure("cost", price(sweep.cost), f"{to_go} to go" if sweep.goes_on else "of all trials"),
    ]


def _until(sweep: SweepAccount) -> str:
    if not sweep.goes_on:
        return "from start to end"
    left = sweep.hours_to_go
    return "too early to tell how long" if left is None else f"about {span(left)} to go"


def _rows(sweep: SweepAccount, keys: Sequence[str], storage: int) -> list[TrialRow]:
    rows = []
    for record in sweep.ranked:
        run = sweep.runs.get(record.run)
        page = slug(storage, sweep.project, record.run)
        rows.append(
            TrialRow(
                trial=record.trial,
                page=f"runs/{page}.html" if run else "",
                state=record.state,
                reason=record.reason,
                objective=ABSENT if record.objective is None else number(record.objective),
                step=record.step,
                values=[_value(record.values, key) for key in keys],
                gpu_hours=ABSENT if run is None else hours(run.gpu_hours),
                cost=ABSENT if run is None else price(costs([run])),
            )
        )
    return rows


def _value(values: dict[str, object], key: str) -> str:
    return number(values[key]) if key in values else ABSENT


def _plots(sweep: SweepAccount) -> list[Plot]:
    measured = [r for r in sweep.trials if r.objective is not None and r.state != "failed"]
    if not measured:
        why = "No trial has been measured yet."
        return [Plot("parallel", "Values and what came of them", why, "")]
    lines, width = parallel_coordinates(sweep)
    importance = importance_of(sweep)
    return [
        Plot(
            "parallel",
            "Values and what came of them",
            "Each line is a trial, the darker the better; the last axis is the objective. Point at"
            " a line to see it alone.",
            lines,
            width,
        ),
        Plot(
            "best",
            "Best so far",
            "Each point is a measurement of a trial; the line is the best until then.",
            best_so_far(sweep),
        ),
        Plot(
            "importance",
            "What matters",
            _told(importance),
            importance_bars(importance) if importance.shares else "",
        ),
    ]


def _told(importance: Importance) -> str:
    if importance.reason:
        return f"{importance.reason[0].upper()}{importance.reason[1:]}."
    return (
        f"How much of the objective each key accounts for (PED-ANOVA), from {importance.trials}"
        f" trials at step {importance.step:,}, which all of them reached."
    )
