"""Decides what becomes of trials and writes it down; made again, it stands where it stood."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tap_platform.config.sweep import SweepConfig
from tap_platform.runs.files import utc_now
from tap_platform.sweeps.draws import Values
from tap_platform.sweeps.records import (
    OVER,
    Exploit,
    TrialRecord,
    TrialState,
    append_record,
    changed,
    drop_torn_line,
    read_history,
    trial_id,
)
from tap_platform.sweeps.schedulers import Judge, Verdict
from tap_platform.sweeps.suggest import suggester_of, trials_of

_LOG = logging.getLogger(__name__)

LastStep = Callable[[Values], int]


class Conductor:
    """Search, scheduler and the trials, as the records of a sweep tell of them.

    Search and scheduler are functions of what they were told. What is told to them is in the
    records, in its order, and so a conductor that reads them is the one that wrote them: nothing
    is lost with it but what it had not written, and that was not done either.
    """

    def __init__(
        self, config: SweepConfig, path: Path, run_prefix: str, last_step: LastStep
    ) -> None:
        """Read what has happened so far; nobody else writes it.

        Args:
            config: the sweep.
            path: its `trials.jsonl`; none yet, of a new one.
            run_prefix: what names of runs begin with.
            last_step: the steps of a trial of these values.

        Raises:
            ValueError: if the records cannot be read.
        """
        self._config, self._path, self._prefix = config, path, run_prefix
        self._last_step = last_step
        self._suggester, self._judge = suggester_of(config), Judge(config)
        self._most = trials_of(config)
        self.trials: dict[str, TrialRecord] = {}
        self.exploits: dict[str, Exploit] = {}
        """The last one of each trial."""
        self.known: dict[str, int] = {}
        """The step up to which each trial has been measured, as its weights stand."""
        self._no_more = False
        self._to_start: list[str] = []
        drop_torn_line(path)
        for record in read_history(path):
            self._replay(record)
        self._to_start = [each.trial for each in self.trials.values() if not each.is_over]

    @property
    def total(self) -> int | None:
        """How many trials there will be at most; None if only time or money ends the sweep."""
        return self._most

    @property
    def over(self) -> int:
        """How many trials are over."""
        return sum(record.is_over for record in self.trials.values())

    @property
    def has_more(self) -> bool:
        """Whether there are trials that nobody trains."""
        full = self._most is not None and len(self.trials) >= self._most
        return bool(self._to_start) or not (self._no_more or full)

    def next(self) -> TrialRecord | None:
        """The next trial to train: one that was cut short, else a new one; None if there is none.

        Raises:
            OSError: it cannot be written down.
        """
        if self._to_start:
            return self.trials[self._to_start.pop(0)]
        if not self.has_more:
            return None
        number = len(self.trials)
        values = self._suggester.suggest(number)
        if values is None:
            self._no_more = True
            return None
        record = TrialRecord(
            trial=trial_id(number),
            run=f"{self._prefix}-{trial_id(number)}",
            state="pending",
            values=values,
            objective=None,
            step=0,
            time=utc_now(),
            what="suggested",
        )
        self._write(record)
        self._judge.add(number, values, self._last_step(values))
        return record

    def started(self, trial: str) -> None:
        """A trial trains."""
        if self.trials[trial].state == "pending":
            self._write(changed(self.trials[trial], "started", state="running"))

    def measured(self, trial: str, step: int, objective: float) -> Verdict:
        """A trial was measured; hear what becomes of it.

        Args:
            trial: its id.
            step: that it was measured at.
            objective: a number that is finite.
        """
        verdict = self._tell(self.trials[trial], step, objective)
        told: dict[str, Any] = {"objective": objective, "step": step, "state": "running"}
        told["exploit"] = verdict.exploit
        if verdict.stop:
            told |= {"state": "stopped", "reason": f"by {self._config.scheduler.type}"}
        if verdict.exploit is not None:
            told["values"] = verdict.values
        self._write(changed(self.trials[trial], "measured", **told))
        if verdict.stop:
            self._tell_end(self.trials[trial])
        self._follow(self.trials[trial])
        return verdict

    def ended(self, trial: str, state: TrialState, reason: str = "") -> None:
        """A trial is over; nothing happens if that is known."""
        if self.trials[trial].is_over:
            return
        self._write(changed(self.trials[trial], "ended", state=state, reason=reason))
        self._tell_end(self.trials[trial])

    @property
    def best(self) -> TrialRecord | None:
        """The trial whose last measure is best, of those that have not failed."""
        best = None
        for record in self.trials.values():
            value = record.objective
            if value is None or not math.isfinite(value) or record.state == "failed":
                continue
            if best is None or self._config.objective.better(value, best.objective or 0.0):
                best = record
        return best

    def _write(self, record: TrialRecord) -> None:
        """What is done about it comes after."""
        append_record(self._path, record)
        self.trials[record.trial] = record

    def _follow(self, record: TrialRecord) -> None:
        """Keep where a trial's weights stand after a measure."""
        self.known[record.trial] = record.step
        if record.exploit is not None:
            self.exploits[record.trial] = record.exploit
            self.known[record.trial] = record.exploit.step

    def _tell(self, record: TrialRecord, step: int, objective: float) -> Verdict:
        self._suggester.measured(record.number, step, objective)
        return self._judge.measured(record.number, step, objective)

    def _tell_end(self, record: TrialRecord) -> None:
        objective = None if record.state == "failed" else record.objective
        is_whole = record.state == "finished"
        self._suggester.ended(record.number, objective=objective, is_whole=is_whole)
        self._judge.ended(record.number, record.step, objective)

    def _replay(self, record: TrialRecord) -> None:
        """Tell search and scheduler what they were told, and take what was decided."""
        if record.what == "suggested":
            again = self._suggester.suggest(record.number)
            if again != record.values:
                _LOG.warning("%s was %s, and would be %s", record.trial, record.values, again)
            self._judge.add(record.number, record.values, self._last_step(record.values))
        elif record.what == "measured":
            assert record.objective is not None
            self._tell(record, record.step, record.objective)
            self._follow(record)
        self.trials[record.trial] = record
        if record.state in OVER:
            self._tell_end(record)
