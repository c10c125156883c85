"""Ray Tune's schedulers, asked about trials as they are measured.

They are functions of what they were told, in its order: told the same again, a new one stands
where an earlier one stood. That is how a sweep goes on; what Ray Tune restores lacks the scheduler.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from tap_platform.config.sweep import Asha, MedianRule, Population, RunToTheEnd, SweepConfig
from tap_platform.sweeps.draws import Space, Values, value_from
from tap_platform.sweeps.records import Exploit, trial_id

STEP, OBJECTIVE = "step", "objective"


@dataclass(frozen=True)
class Verdict:
    """What becomes of a trial that was measured."""

    stop: bool = False
    """It ends here."""
    exploit: Exploit | None = None
    """It goes on from another's weights."""
    values: Values | None = None
    """With these values then."""


_NO_CHECKPOINTS = SimpleNamespace(
    checkpoint_manager=SimpleNamespace(checkpoint_config=SimpleNamespace(num_to_keep=None))
)


@dataclass(eq=False)
class _Contender:
    """As much of a Ray Tune trial as its schedulers look at."""

    trial_id: str
    config: Values
    last_step: int
    experiment_tag: str = ""
    evaluated_params: Values = field(default_factory=dict)
    status: str = "RUNNING"
    exploits: int = 0
    run_metadata: Any = field(default_factory=lambda: _NO_CHECKPOINTS)

    def is_finished(self) -> bool:
        return self.status == "TERMINATED"


class _NoController:
    """Schedulers ask for other trials, to take turns; here all that are told of train."""

    search_alg = None

    def get_trials(self) -> Iterable[Any]:
        return ()

    get_live_trials = get_trials


class Judge:
    """One of Ray Tune's schedulers, and the trials that it knows."""

    def __init__(self, config: SweepConfig) -> None:
        """Know nothing yet."""
        self._seed = config.search.seed
        self._scheduler = _scheduler(config)
        self._trials: dict[int, _Contender] = {}

    def add(self, number: int, values: Values, last_step: int) -> None:
        """Tell of a trial that begins.

        Args:
            number: its own.
            values: its values.
            last_step: that it will end at; there it is not stopped any more.
        """
        contender = _Contender(trial_id(number), dict(values), last_step)
        self._trials[number] = contender
        with _drawn_from(self._seed, number, 0):
            self._scheduler.on_trial_add(_NoController(), contender)

    def measured(self, number: int, step: int, objective: float) -> Verdict:
        """Tell of a measure, and hear what becomes of the trial."""
        trial = self._trials[number]
        result = {STEP: step, OBJECTIVE: objective}
        with _drawn_from(self._seed, number, step):
            said = self._scheduler.on_trial_result(_NoController(), trial, result)
        if isinstance(self._scheduler, _Population) and self._scheduler.order is not None:
            order, self._scheduler.order = self._scheduler.order, None
            return Verdict(exploit=order, values=dict(trial.config))
        return Verdict(stop=said == TrialScheduler.STOP and step < trial.last_step)

    def ended(self, number: int, step: int, objective: float | None) -> None:
        """Tell that a trial is over."""
        trial = self._trials[number]
        trial.status = "TERMINATED"
        if objective is not None:
            result = {STEP: step, OBJECTIVE: objective}
            self._scheduler.on_trial_complete(_NoController(), trial, result)


@contextmanager
def _drawn_from(*key: int) -> Iterator[None]:
    """Let what the block draws depend on the trial and its step alone."""
    before = random.getstate()
    random.seed(repr(key))
    try:
        yield
    finally:
        random.setstate(before)


class _Population(PopulationBasedTraining):
    """Ray Tune's choice of who goes on from whom, and with what; the change itself is the run's.

    Ray Tune's own would pause the trial, and hand it a checkpoint of Ray's.
    """

    order: Exploit | None = None
    """What the trial that was measured last is to do."""

    def _checkpoint_or_exploit(
        self, trial: Any, tune_controller: Any, upper_quantile: list[Any], lower_quantile: list[Any]
    ) -> None:
        donors = [each for each in upper_quantile if not self._is_through(each)]
        if trial not in lower_quantile or self._is_through(trial) or not donors:
            return
        donor = random.choice(donors)
        step = self._trial_state[donor].last_train_time
        trial.config, _ = self._get_new_config(trial, donor)
        trial.exploits += 1
        self.order = Exploit(number=trial.exploits, trial=donor.trial_id, step=step)
        mine, others = self._trial_state[trial], self._trial_state[donor]
        mine.last_perturbation_time = others.last_perturbation_time
        mine.last_train_time = others.last_train_time

    def _is_through(self, trial: Any) -> bool:
        """Whether it was measured at its last step: from there nobody trains, or is measured."""
        return bool(self._trial_state[trial].last_train_time >= trial.last_step)


def _scheduler(config: SweepConfig) -> Any:
    asked = config.scheduler
    how: dict[str, Any] = {"metric": OBJECTIVE, "mode": config.objective.mode}
    if isinstance(asked, RunToTheEnd):
        return FIFOScheduler()
    if isinstance(asked, Asha):
        return AsyncHyperBandScheduler(
            time_attr=STEP,
            grace_period=asked.grace_steps,
            reduction_factor=asked.reduction,
            max_t=_MOST_STEPS,
            stop_last_trials=False,
            **how,
        )
    if isinstance(asked, MedianRule):
        return MedianStoppingRule(
            time_attr=STEP,
            grace_period=asked.grace_steps,
            min_samples_required=asked.least_trials,
            **how,
        )
    return _population(config, asked)


_MOST_STEPS = 10**9
"""Rungs go on for as long as a trial does."""


def _population(config: SweepConfig, asked: Population) -> _Population:
    return _Population(
        time_attr=STEP,
        perturbation_interval=asked.every_steps,
        hyperparam_mutations={key: _mutation(config.space, key) for key in config.space},
        quantile_fraction=asked.quantile,
        resample_probability=asked.resample,
        custom_explore_fn=lambda values: _within(config.space, values),
        log_config=False,
        metric=OBJECTIVE,
        mode=config.objective.mode,
    )


def _mutation(space: Space, key: str) -> Any:
    """A list, whose neighbours are tried, or what draws a number."""
    dimension = space[key]
    if dimension.listed is not None:
        return list(dimension.listed)
    return lambda: value_from(dimension, random.Random(random.random()))


def _within(space: Space, values: Values) -> Values:
    """Values that were multiplied, held in their ranges."""
    bounded = dict(values)
    for key, dimension in space.items():
        if bounds := dimension.uniform or dimension.log_uniform:
            bounded[key] = min(max(values[key], bounds[0]), bounds[1])
    return bounded
