"""Everything that the pages show, read from run directories and sweep directories alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tap_platform.dashboard.remote_sweeps import fetch_sweeps
from tap_platform.dashboard.sweeps import SweepAccount, read_sweeps
from tap_platform.dashboard.words import slug
from tap_platform.runs.account import RunAccount
from tap_platform.runs.directory import local_path
from tap_platform.runs.ledger import Fault, Ledger, read_ledger
from tap_platform.sweeps.records import TrialRecord


@dataclass(frozen=True)
class ListedRun:
    """A run, and where its page is."""

    account: RunAccount
    storage: str
    slug: str


@dataclass(frozen=True)
class ListedSweep:
    """A sweep, and where its page is."""

    account: SweepAccount
    storage: str
    slug: str


@dataclass(frozen=True)
class Collected:
    """All runs and sweeps of some storages at one moment."""

    storages: tuple[str, ...]
    runs: tuple[ListedRun, ...]
    sweeps: tuple[ListedSweep, ...]
    faults: tuple[Fault, ...]
    read: float
    """When, seconds since 1970."""

    @property
    def ledger(self) -> Ledger:
        """All runs as one ledger."""
        accounts = tuple(run.account for run in self.runs)
        return Ledger(", ".join(self.storages), accounts, self.faults, self.read)

    @cached_property
    def run_by_slug(self) -> dict[str, ListedRun]:
        """Runs by their pages."""
        return {run.slug: run for run in self.runs}

    @cached_property
    def sweep_by_slug(self) -> dict[str, ListedSweep]:
        """Sweeps by their pages."""
        return {sweep.slug: sweep for sweep in self.sweeps}

    @cached_property
    def trial_of(self) -> dict[str, tuple[ListedSweep, TrialRecord]]:
        """By the page of a run that is a trial: its sweep, and how it stands there."""
        found = {}
        number = {storage: place for place, storage in enumerate(self.storages)}
        for sweep in self.sweeps:
            for record in sweep.account.trials:
                own = slug(number[sweep.storage], sweep.account.project, record.run)
                found[own] = sweep, record
        return found

    @cached_property
    def version(self) -> str:
        """Changes with what the pages show; each minute while something goes on."""
        told: list[object] = [fault.path for fault in self.faults]
        for run in self.runs:
            each = run.account
            told += [run.slug, each.state, each.step, each.updated, *each.results.values()]
        for sweep in self.sweeps:
            of = sweep.account
            told += [sweep.slug, of.state, len(of.history), of.status.updated]
        accounts: list[RunAccount | SweepAccount] = [run.account for run in self.runs]
        accounts += [sweep.account for sweep in self.sweeps]
        if any(account.goes_on for account in accounts):
            told.append(int(self.read // 60))
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def collect(storages: Sequence[str], now: float | None = None) -> Collected:
    """Read all runs and sweeps; corrupt ones are skipped and listed.

    Args:
        storages: folders, or URLs of mirrors (`s3://bucket/runs`).
        now: the time to count up to, seconds since 1970; by default the present.

    Raises:
        ValueError: there is no such folder, or a URL's kind is unknown.
        OSError: a store does not answer.
    """
    now = time.time() if now is None else now
    names = tuple(dict.fromkeys(storages))
    runs: list[ListedRun] = []
    sweeps: list[ListedSweep] = []
    faults: list[Fault] = []
    for number, storage in enumerate(names):
        ledger = read_ledger(storage, now)
        faults += ledger.faults
        place = fetch_sweeps(storage, faults) if "://" in storage else local_path(storage)
        for run in ledger.accounts:
            runs.append(ListedRun(run, storage, slug(number, run.project, run.name)))
        for sweep in read_sweeps(place, ledger.accounts, now, faults):
            sweeps.append(ListedSweep(sweep, storage, slug(number, sweep.project, sweep.name)))
    return Collected(names, tuple(runs), tuple(sweeps), tuple(faults), now)
