"""How much each key of a space matters to a sweep's objective."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from tap_platform.config.space import Dimension
from tap_platform.dashboard.sweeps import SweepAccount
from tap_platform.sweeps.records import TrialRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FEWEST_TRIALS = 10
"""Trials below which shares would be noise."""


class Importance(NamedTuple):
    """Shares of the keys, or why there are none."""

    shares: dict[str, float]
    """By key, the largest first; from 0 to 1, together 1."""
    trials: int
    """They were told from."""
    step: int
    """At which trials were compared."""
    reason: str = ""
    """For people."""


def importance_of(sweep: SweepAccount) -> Importance:
    """Optuna's PED-ANOVA over the trials that are over.

    Trials that were stopped early have made fewer steps than others: all are compared at the last
    step that each of them has reached.
    """
    values, step = _compared(sweep)
    if len(values) < FEWEST_TRIALS:
        there = f"{len(values)} of {FEWEST_TRIALS} trials are measured and over"
        return Importance({}, len(values), step, f"too few trials to tell: {there}")
    if len(set(values.values())) == 1:
        return Importance({}, len(values), step, "all trials have the same objective")
    try:
        shares = _ped_anova(sweep, values)
    except (ValueError, RuntimeError, KeyError) as error:
        return Importance({}, len(values), step, f"it cannot be told: {error}")
    return Importance(shares, len(values), step)


def _compared(sweep: SweepAccount) -> tuple[dict[str, float], int]:
    """The objective of each trial that is over, at a step that all of them have reached."""
    over = {
        record.trial
        for record in sweep.trials
        if record.is_over and record.state != "failed" and record.objective is not None
    }
    measured: dict[str, dict[int, float]] = {trial: {} for trial in over}
    for record in sweep.history:
        if record.trial in over and record.objective is not None:
            measured[record.trial][record.step] = record.objective
    step = min((max(steps) for steps in measured.values()), default=0)
    values = {}
    for trial, steps in measured.items():
        reached = [at for at in steps if at <= step]
        if reached:
            values[trial] = steps[max(reached)]
    return values, step


def _ped_anova(sweep: SweepAccount, values: dict[str, float]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(logging.ERROR)
    space = {key: _distribution(dimension) for key, dimension in sweep.config.space.items()}
    is_max = sweep.config.objective.mode == "max"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize" if is_max else "minimize")
        for record in sweep.trials:
            if record.trial in values:
                params = _params(record, sweep)
                study.add_trial(
                    optuna.trial.create_trial(
                        params=params,
                        distributions={key: space[key] for key in params},
                        value=values[record.trial],
                    )
                )
        shares = optuna.importance.get_param_importances(study)
    return {key: float(share) for key, share in shares.items()}


def _params(record: TrialRecord, sweep: SweepAccount) -> dict[str, Any]:
    """The values within their ranges, which population-based training leaves."""
    found = {}
    for key, value in record.values.items():
        dimension = sweep.config.space.get(key)
        if dimension is None:
            continue
        bounds = dimension.uniform or dimension.log_uniform or dimension.whole
        if dimension.listed is not None and dimension.whole is None:
            if value in dimension.listed:
                found[key] = dimension.listed.index(value)
        elif bounds is not None:
            found[key] = min(max(value, bounds[0]), bounds[1])
    return found


def _distribution(dimension: Dimension) -> BaseDistribution:
    """As Optuna knows it; a list's values by their places, since they may be anything."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if dimension.uniform is not None:
        return FloatDistribution(*dimension.uniform)
    if dimension.log_uniform is not None:
        return FloatDistribution(*dimension.log_uniform, log=True)
    if dimension.whole is not None:
        return IntDistribution(*dimension.whole, step=1)
    return CategoricalDistribution(tuple(range(len(dimension.listed or ()))))
