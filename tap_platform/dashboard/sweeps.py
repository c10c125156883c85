"""How a sweep stands, from its directory and the accounts of its trials' runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tap_platform.config.sweep import SweepConfig
from tap_platform.dashboard.words import seconds_of
from tap_platform.runs.account import AccountState, RunAccount
from tap_platform.runs.accounting import LOST_AFTER_SECONDS
from tap_platform.runs.ledger import Fault
from tap_platform.runs.status import RunStatus, read_status
from tap_platform.sweeps.directory import SweepDirectory
from tap_platform.sweeps.records import TrialRecord, ranked, read_history
from tap_platform.sweeps.suggest import trials_of

_EARLIEST_GUESS = 0.03
"""Share of a sweep that must be done before its end is guessed."""


@dataclass(frozen=True)
class SweepAccount:
    """One sweep, and the runs that its trials are."""

    name: str
    project: str
    path: str
    config: SweepConfig
    status: RunStatus
    state: AccountState
    history: tuple[TrialRecord, ...]
    """What happened to trials, in order."""
    runs: Mapping[str, RunAccount]
    """Of trials, by the run's name; one that has no directory yet is not there."""
    now: float
    """When it was read, seconds since 1970."""

    @cached_property
    def trials(self) -> list[TrialRecord]:
        """How each stands, in the order in which they began."""
        return list({record.trial: record for record in self.history}.values())

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """The best first; those that failed or were never measured last."""
        return ranked(self.trials, self.config.objective.mode)

    @property
    def best(self) -> TrialRecord | None:
        """The best trial that did not fail; None before one was measured."""
        first = self.ranked[:1]
        is_one = first and first[0].objective is not None and first[0].state != "failed"
        return first[0] if is_one else None

    @property
    def total(self) -> int | None:
        """How many trials there will be at most; None where other budgets end it."""
        return trials_of(self.config)

    @property
    def goes_on(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state in ("preparing", "running")

    @property
    def owner(self) -> str:
        """Of its trials; empty before the first."""
        return next((run.owner for run in self.runs.values() if run.owner), "")

    @property
    def team(self) -> str:
        """Of its trials; empty where nobody has said."""
        return next((run.team for run in self.runs.values() if run.team), "")

    @property
    def gpu_hours(self) -> float:
        """Of all trials."""
        return sum(run.gpu_hours for run in self.runs.values())

    @property
    def cost(self) -> dict[str, float]:
        """Of all trials, by currency."""
        return costs(list(self.runs.values()))

    @property
    def hours(self) -> float:
        """By the clock, from its start to its last sign of life."""
        begin = seconds_of(self.status.started)
        end = self.now if self.goes_on else seconds_of(self.status.updated)
        return max(0.0, end - begin) / 3600

    @property
    def progress(self) -> float:
        """How far it is, from 0 to 1: the largest share of a budget that is gone."""
        if self.state == "finished":
            return 1.0
        budget = self.config.budget
        shares = [
            used / most
            for used, most in (
                (self._trials_done(), self.total),
                (self.hours, budget.hours),
                (self.gpu_hours, budget.gpu_hours),
                (sum(self.cost.values()), budget.money),
            )
            if most
        ]
        return min(1.0, max(shares, default=0.0))

    @property
    def hours_to_go(self) -> float | None:
        """Until its end at its pace so far, roughly; None where that cannot be told."""
        share = self.progress
        if not self.goes_on or share < _EARLIEST_GUESS:
            return None
        return self.hours * (1 - share) / share

    @property
    def cost_to_go(self) -> dict[str, float]:
        """At its pace so far, by currency; empty where that cannot be told."""
        share = self.progress
        if not self.goes_on or share < _EARLIEST_GUESS:
            return {}
        return {currency: cost * (1 - share) / share for currency, cost in self.cost.items()}

    def _trials_done(self) -> float:
        """Trials that are over, and the shares of those that run."""

        def share(record: TrialRecord) -> float:
            run = self.runs.get(record.run)
            return 1.0 if record.is_over else run.progress if run else 0.0

        return sum(map(share, self.trials))


def costs(runs: Sequence[RunAccount]) -> dict[str, float]:
    """What runs have cost together, by currency."""
    found: dict[str, float] = {}
    for run in runs:
        cost = run.cost
        if cost is not None and run.currency:
            found[run.currency] = found.get(run.currency, 0.0) + cost
    return found


def read_sweeps(
    place: Path, accounts: Sequence[RunAccount], now: float, faults: list[Fault]
) -> list[SweepAccount]:
    """The sweeps of a storage, by project and name; broken ones are listed in `faults`.

    Args:
        place: the storage.
        accounts: all runs of it.
        now: seconds since 1970.
        faults: what could not be read is added.
    """
    trials: dict[tuple[str, str], dict[str, RunAccount]] = {}
    for account in accounts:
        if account.sweep is not None:
            trials.setdefault((account.project, account.sweep), {})[account.name] = account
    found = []
    for sweep in SweepDirectory.all(place):
        own = trials.pop((sweep.runs.name, sweep.name), {})
        try:
            found.append(_read(sweep, own, now))
        except FileNotFoundError:
            why = "it has no status.json: delete the folder, or restore the file"
            faults.append(Fault(str(sweep.path), why, skipped=True))
        except (ValueError, TypeError, OSError) as error:
            faults.append(Fault(str(sweep.path), str(error).splitlines()[0], skipped=True))
    for (project, name), runs in trials.items():
        if not (place / project / "sweeps" / name).exists():
            why = f"runs say that they are its trials ({len(runs)}), and it is not here"
            faults.append(Fault(f"{project}/sweeps/{name}", why, skipped=True))
    return found


def _read(sweep: SweepDirectory, runs: Mapping[str, RunAccount], now: float) -> SweepAccount:
    config, status = sweep.read_config(), read_status(sweep.as_run.status)
    history = tuple(map(_finite, read_history(sweep.trials)))
    signs = [status.started, status.updated, *(record.time for record in history)]
    signs += [run.updated for run in runs.values()]
    last = max(map(seconds_of, signs))  # refuses what is no time, before a page stumbles on it
    is_silent = not status.ended and now - last > LOST_AFTER_SECONDS
    return SweepAccount(
        name=sweep.name,
        project=sweep.runs.name,
        path=str(sweep.path),
        config=config,
        status=status,
        state="lost" if is_silent else status.state,
        history=history,
        runs=runs,
        now=now,
    )


def _finite(record: TrialRecord) -> TrialRecord:
    """An objective that is no number counts as none."""
    is_one = record.objective is None or math.isfinite(record.objective)
    return record if is_one else record.model_copy(update={"objective": None})
