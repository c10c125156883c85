"""Runs and sweeps as lines of one table: how far, until when, what it took and will take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tap_platform.dashboard.collect import Collected, ListedRun, ListedSweep
from tap_platform.dashboard.sweeps import costs
from tap_platform.dashboard.words import counted
from tap_platform.runs.account import AccountState, RunAccount

Kind = Literal["run", "sweep", "pipeline", "trial", "stage"]
PARTS: tuple[Kind, ...] = ("trial", "stage")
"""Kinds that count within another line."""
State = AccountState | Literal["stopped"]
GOES_ON: tuple[State, ...] = ("preparing", "running")


@dataclass(frozen=True)
class Line:
    """One run or sweep."""

    kind: Kind
    name: str
    page: str
    """Its page, from the folder of all pages."""
    project: str
    owner: str
    """A person's name, without the host."""
    team: str
    state: State
    cause: str
    """Why it is so, of one that did not go well; in a line."""
    progress: float
    """From 0 to 1."""
    done: str
    """The same in steps, stages or trials."""
    hours_to_go: float | None
    gpu_hours: float
    cost: Mapping[str, float]
    """To date, by currency."""
    cost_to_go: Mapping[str, float]
    updated: str
    """Its last sign of life, UTC in ISO 8601."""
    within: str = ""
    """The sweep or pipeline that it is a part of."""

    @property
    def is_part(self) -> bool:
        """Whether another line counts it too."""
        return self.kind in PARTS

    @property
    def goes_on(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state in GOES_ON

    @property
    def words(self) -> str:
        """What a search looks at."""
        told = (self.name, self.project, self.owner, self.team, self.cause, self.within)
        return " ".join(filter(None, told)).lower()


def lines_of(collected: Collected) -> list[Line]:
    """All lines: those that go on first, then by their last sign of life, the newest first."""
    stages: defaultdict[tuple[str, str, str], list[RunAccount]] = defaultdict(list)
    for run in collected.runs:
        if run.account.parent is not None:
            stages[run.storage, run.account.project, run.account.parent].append(run.account)
    lines = [_of_sweep(sweep) for sweep in collected.sweeps]
    lines += [_of_run(run, collected, stages) for run in collected.runs]
    lines.sort(key=lambda line: line.updated, reverse=True)
    return sorted(lines, key=lambda line: not line.goes_on)


def _of_sweep(listed: ListedSweep) -> Line:
    sweep = listed.account
    over = sum(record.is_over for record in sweep.trials)
    of = "" if sweep.total is None else f" of {sweep.total:,}"
    is_bad = sweep.state in ("failed", "lost", "interrupted")
    return Line(
        kind="sweep",
        name=sweep.name,
        page=f"sweeps/{listed.slug}.html",
        project=sweep.project,
        owner=sweep.owner.partition("@")[0],
        team=sweep.team,
        state=sweep.state,
        cause=_first_line(sweep.status.message) if is_bad else "",
        progress=sweep.progress,
        done=f"{over:,}{of} trials over",
        hours_to_go=sweep.hours_to_go,
        gpu_hours=sweep.gpu_hours,
        cost=sweep.cost,
        cost_to_go=sweep.cost_to_go,
        updated=max([sweep.status.updated, *(run.updated for run in sweep.runs.values())]),
    )


def _of_run(
    listed: ListedRun,
    collected: Collected,
    stages: Mapping[tuple[str, str, str], Sequence[RunAccount]],
) -> Line:
    run = listed.account
    own = (listed.storage, run.project, run.name)
    spent = stages.get(own, []) if run.holds_runs else [run]
    to_go = run.cost_to_go
    state, cause = state_of(listed, collected)
    return Line(
        kind=_kind(run),
        name=run.name,
        page=f"runs/{listed.slug}.html",
        project=run.project,
        owner=run.owner.partition("@")[0],
        team=run.team,
        state=state,
        cause=cause,
        progress=run.progress,
        done=_done(run),
        hours_to_go=run.hours_to_go,
        gpu_hours=sum(each.gpu_hours for each in spent),
        cost=costs(spent),
        cost_to_go={} if to_go is None else {run.currency or "": to_go},
        updated=run.updated,
        within=run.sweep or run.parent or "",
    )


def state_of(listed: ListedRun, collected: Collected) -> tuple[State, str]:
    """A run's state and its cause; `stopped` is a trial that its sweep ended early."""
    run, trial = listed.account, collected.trial_of.get(listed.slug)
    if trial is not None and trial[1].state == "stopped" and not run.goes_on:
        return "stopped", _first_line(trial[1].reason)
    return run.state, run.cause


def _kind(run: RunAccount) -> Kind:
    if run.sweep is not None:
        return "trial"
    if run.parent is not None:
        return "stage"
    return "pipeline" if run.holds_runs else "run"


def _done(run: RunAccount) -> str:
    if run.holds_runs:
        whole = "" if run.max_steps is None else f"of {run.max_steps:,} "
        return f"{run.step:,} {whole}stages"
    if run.max_steps is None:
        return counted(run.step, "step")
    return f"{run.step:,} of {counted(run.max_steps, 'step')}"


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
