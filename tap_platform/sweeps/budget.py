"""What a sweep has taken, and whether it may take more."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Protocol

from tap_platform.alerts.watch import Used
from tap_platform.config.job import JobConfig
from tap_platform.config.sweep import SweepConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.status import read_status
from tap_platform.runs.usage import Usage

ENDING_SECONDS = 15.0
"""What trials take to end beside their workers' grace."""


class Prices(Protocol):
    """What machines cost."""

    currency: str
    """Of every price."""

    def of_trial(self, job: JobConfig) -> float:
        """What a trial's nodes cost an hour."""
        ...

    @property
    def of_head(self) -> float:
        """What the cluster costs an hour beside them."""
        ...


class Spending:
    """Adds up what the trials of a sweep hold: a trial counts from its start, with all workers."""

    def __init__(self, config: SweepConfig, sweep: RunDirectory, prices: Prices) -> None:
        """Look at nothing yet.

        Args:
            config: the sweep.
            sweep: the folder with its events.
            prices: of its trials' machines.
        """
        self._budget, self._sweep = config.budget, sweep
        self.prices = prices
        """What trials and the head cost."""
        self._trials: dict[RunDirectory, JobConfig] = {}
        self._ended: dict[RunDirectory, float] = {}

    def add(self, run: RunDirectory, job: JobConfig) -> None:
        """Count a trial's run from now on, and what it has taken before."""
        self._trials[run] = job

    def exhausted(self, running: Collection[RunDirectory]) -> str:
        """Which budget is used up, once what the running trials need to end is kept back.

        Returns:
            Words for people; empty while there is more of every one.
        """
        now, ending = time.time(), self._ending_hours(running)
        for name, most, spent in (
            ("hours", self._budget.hours, lambda: self.hours(now) + ending),
            ("gpu_hours", self._budget.gpu_hours, lambda: self.gpu_hours(now, running, ending)),
            ("money", self._budget.money, lambda: self.money(now, running, ending)),
        ):
            if most is not None and spent() >= most:
                return f"budget.{name} {most:g} is used up"
        return ""

    def hours(self, now: float) -> float:
        """By the clock, all parts of the sweep together."""
        usage = Usage()
        usage.take(read_events(self._sweep.events))
        return usage.driver_hours(now)

    def gpu_hours(
        self, now: float, running: Collection[RunDirectory] = (), ending: float = 0.0
    ) -> float:
        """Of all workers' GPUs; of workers, where there are none."""
        return self._sum(lambda job: job.scale.most_workers, now, running, ending)

    def money(
        self, now: float, running: Collection[RunDirectory] = (), ending: float = 0.0
    ) -> float:
        """At the prices of the place."""
        head = self.prices.of_head * (self.hours(now) + ending)
        return head + self._sum(self.prices.of_trial, now, running, ending)

    def used(self, running: Collection[RunDirectory]) -> dict[str, Used]:
        """How much of each budget is gone by now, for alerts; trials' number is no news."""
        now, budget = time.time(), self._budget
        spent = {
            "hours": (self.hours(now), budget.hours, ""),
            "GPU-hours": (self.gpu_hours(now, running), budget.gpu_hours, ""),
            "cost": (self.money(now, running), budget.money, self.prices.currency),
        }
        return {
            name: Used(value, limit, unit)
            for name, (value, limit, unit) in spent.items()
            if limit is not None
        }

    def _ending_hours(self, running: Collection[RunDirectory]) -> float:
        graces = [self._trials[run].scale.grace_seconds for run in running]
        return (max(graces) + ENDING_SECONDS) / 3600 if graces else 0.0

    def _sum(
        self,
        rate: Callable[[JobConfig], float],
        now: float,
        running: Collection[RunDirectory],
        ending: float,
    ) -> float:
        total = 0.0
        for run, job in list(self._trials.items()):  # alerts ask from a thread
            is_running = run in running
            hours = self._hours_of(run, now if is_running else None)
            total += rate(job) * (hours + (ending if is_running else 0.0))
        return total

    def _hours_of(self, run: RunDirectory, now: float | None) -> float:
        """Hours of a trial; those of one that has ended are read once, not while it still ends."""
        if now is not None:
            self._ended.pop(run, None)
            return _hours(run, now)
        hours = self._ended.get(run)
        if hours is None:
            has_ended, until = _last_word(run)
            hours = _hours(run, until)
            if has_ended:
                self._ended[run] = hours
        return hours


def _hours(run: RunDirectory, now: float) -> float:
    usage = Usage()
    usage.take(read_events(run.events))
    return usage.driver_hours(now)


def _last_word(run: RunDirectory) -> tuple[bool, float]:
    """Whether a run has ended, and when a driver that may have been killed was there for sure."""
    try:
        status = read_status(run.status)
    except FileNotFoundError:
        return False, 0.0
    return status.ended, datetime.fromisoformat(status.updated).timestamp()
