"""What a sweep does about what its conductor decides: orders, budgets, and how it stands."""

from __future__ import annotations

import time
from collections.abc import Callable

from tap_platform.alerts.watch import Used
from tap_platform.config.sweep import SweepConfig
from tap_platform.runs.alive import SignsOfLife
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import update_status
from tap_platform.sweeps.budget import Spending
from tap_platform.sweeps.conductor import Conductor
from tap_platform.sweeps.directory import SweepDirectory
from tap_platform.sweeps.live_trial import TrialOrder
from tap_platform.sweeps.orders import write_order
from tap_platform.sweeps.records import TrialRecord, TrialState
from tap_platform.sweeps.trial_jobs import trial_job

LOOK_EVERY_SECONDS = 1.0


class Stage:
    """Trials come on and go off; whoever runs them asks here for the next, and tells of them."""

    def __init__(
        self,
        config: SweepConfig,
        sweep: SweepDirectory,
        spending: Spending,
        at_once: int,
        runner: str,
    ) -> None:
        """Read how the sweep stands.

        Args:
            config: the sweep.
            sweep: its directory.
            spending: what it has taken.
            at_once: trials side by side, at most.
            runner: what trains them, `package.module:Class`.
        """
        self._config, self._sweep, self._spending = config, sweep, spending
        self._at_once, self._runner = at_once, runner
        self._life = SignsOfLife(sweep.as_run)
        self.conductor = Conductor(config, sweep.trials, sweep.name, self._last_step)
        self.running: set[str] = set()
        self.why_over = ""
        """Why no further trial begins, although there are more."""
        self.hopeless = ""
        """Why no trial can succeed."""
        self.is_interrupted = False
        self.on_change: Callable[[TrialRecord], None] = lambda record: None
        self._looked = 0.0
        for record in self.conductor.trials.values():
            self._count(record)

    def next(self) -> TrialOrder | None:
        """The order of the next trial, if there is one and room for it.

        A trial whose job is refused has failed then and there.
        """
        while len(self.running) < self._at_once and not self.is_over():
            record = self.conductor.next()
            if record is None:
                return None
            try:
                order = self._order(record)
            except ValueError as error:
                self.ended(record.trial, "failed", str(error))
                continue
            self._count(record)
            if self._lacks_means_for(record.trial):
                return None
            write_order(order)
            self.running.add(record.trial)
            self.conductor.started(record.trial)
            return order
        return None

    @property
    def is_complete(self) -> bool:
        """Whether no further trial will begin."""
        return bool(self.is_over() or not self.conductor.has_more)

    def measured(self, trial: str, step: int, objective: float) -> bool:
        """A trial was measured; whether it is to end.

        A driver that was started again tells what its first one told: that is known.
        """
        if step <= self.conductor.known.get(trial, 0):
            return False
        verdict = self.conductor.measured(trial, step, objective)
        record = self.conductor.trials[trial]
        if verdict.exploit is not None:
            write_order(self._order(record))
        if verdict.stop:
            self._off(trial)
        self.on_change(record)
        return verdict.stop

    def ended(self, trial: str, state: TrialState, reason: str = "") -> None:
        """A trial is over."""
        self.conductor.ended(trial, state, reason)
        self._off(trial)
        self.on_change(self.conductor.trials[trial])

    def despair(self, why: str) -> None:
        """End all, since no trial is ever measured; if one was, this is the trouble of another."""
        if all(record.objective is None for record in self.conductor.trials.values()):
            self.hopeless = why

    def is_over(self) -> str:
        """Why all trials are to end now; empty while they are not."""
        if self.hopeless or self.is_interrupted:
            return self.hopeless or "interrupted"
        now = time.monotonic()
        if not self.why_over and now - self._looked >= LOOK_EVERY_SECONDS:
            self._looked = now
            self.why_over = self._spending.exhausted(self._runs(self.running))
            self._life.tell()
        return self.why_over

    def used(self) -> dict[str, Used]:
        """How much of each budget is gone."""
        return self._spending.used(self._runs(set(self.running)))

    def close(self) -> None:
        """End in the records what a budget has ended; what was interrupted goes on another time."""
        if self.hopeless or not self.why_over:
            return
        for trial in sorted(self.conductor.trials):
            if not self.conductor.trials[trial].is_over:
                self.ended(trial, "stopped", self.why_over)

    def _order(self, record: TrialRecord) -> TrialOrder:
        job = trial_job(self._config, record.values)
        return TrialOrder(
            sweep=str(self._sweep.path),
            trial=record.trial,
            run=str(self._sweep.run(record.run).path),
            job=job,
            metric=self._config.objective.metric,
            known=self.conductor.known.get(record.trial, 0),
            exploit=self.conductor.exploits.get(record.trial),
            price_per_hour=self._spending.prices.of_trial(job),
            currency=self._spending.prices.currency,
            runner=self._runner,
        )

    def _lacks_means_for(self, trial: str) -> bool:
        """Whether a budget would not bear the end of one more trial: it is used up then."""
        self.why_over = self._spending.exhausted(self._runs({*self.running, trial}))
        return bool(self.why_over)

    def _off(self, trial: str) -> None:
        self.running.discard(trial)
        update_status(self._sweep.as_run.status, step=self.conductor.over)

    def _count(self, record: TrialRecord) -> None:
        """Let a trial's run count for the budget."""
        try:
            job = trial_job(self._config, record.values)
        except ValueError:
            return  # It never trained.
        self._spending.add(self._sweep.run(record.run), job)

    def _runs(self, trials: set[str]) -> list[RunDirectory]:
        return [self._sweep.run(self.conductor.trials[trial].run) for trial in trials]

    def _last_step(self, values: dict[str, object]) -> int:
        try:
            return trial_job(self._config, values).training.max_steps
        except ValueError:
            return 0
