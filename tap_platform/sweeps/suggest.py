"""What suggests the next trial's values, and learns from those before."""

from __future__ import annotations

import logging
import math
import warnings
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from tap_platform.config.space import Dimension
from tap_platform.config.sweep import SweepConfig
from tap_platform.sweeps.draws import Space, Values, draw, grid_order, grid_points, random_values

if TYPE_CHECKING:
    from optuna.trial import Trial


class Suggester(Protocol):
    """Called in the order in which things happen; the same calls bring the same answers."""

    def suggest(self, number: int) -> Values | None:
        """The values of the trial of that number, from 0; None if there are no more."""
        ...

    def measured(self, number: int, step: int, objective: float) -> None:
        """A trial has come so far."""
        ...

    def ended(self, number: int, *, objective: float | None, is_whole: bool) -> None:
        """A trial is over.

        Args:
            number: its own.
            objective: the last that was measured; None if none was, or it failed.
            is_whole: whether it made all its steps.
        """
        ...


def suggester_of(config: SweepConfig) -> Suggester:
    """The search that a sweep asks for."""
    if config.search.type == "grid":
        return _Grid(config.space, config.search.seed)
    if config.search.type == "random":
        return _Random(config.space, config.search.seed)
    return _Optuna(config)


def trials_of(config: SweepConfig) -> int | None:
    """How many trials there will be at most; None where only other budgets end the sweep."""
    most = config.budget.trials
    if config.search.type != "grid":
        return most
    points = sum(1 for _ in islice(grid_points(config.space), most))
    return points if most is None else min(points, most)


class _Unlearning:
    """A search that learns nothing."""

    def measured(self, number: int, step: int, objective: float) -> None:
        pass

    def ended(self, number: int, *, objective: float | None, is_whole: bool) -> None:
        pass


class _Random(_Unlearning):
    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed

    def suggest(self, number: int) -> Values | None:
        return random_values(self._space, self._seed, number)


class _Grid(_Unlearning):
    def __init__(self, space: Space, seed: int) -> None:
        self._points = grid_order(space, seed)

    def suggest(self, number: int) -> Values | None:
        return self._points[number] if number < len(self._points) else None


class _Optuna:
    """Optuna's tree-structured Parzen estimator, in this process.

    A trial that was stopped early counts as pruned, at the last step that it was measured at: it
    ranks behind those that came further.
    """

    def __init__(self, config: SweepConfig) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=config.search.seed,
                n_startup_trials=config.search.startup_trials,
                constant_liar=True,  # else trials side by side would try the same
            )
        self._study = optuna.create_study(
            sampler=sampler,
            direction="maximize" if config.objective.mode == "max" else "minimize",
        )
        self._space = config.space
        self._trials: dict[int, Trial] = {}

    def suggest(self, number: int) -> Values | None:
        trial = self._trials[number] = self._study.ask()
        return draw(self._space, lambda key, dimension: _asked(trial, key, dimension))

    def measured(self, number: int, step: int, objective: float) -> None:
        self._trials[number].report(objective, step)

    def ended(self, number: int, *, objective: float | None, is_whole: bool) -> None:
        from optuna.trial import TrialState

        trial = self._trials[number]
        if objective is None or not math.isfinite(objective):
            self._study.tell(trial, state=TrialState.FAIL)
        elif is_whole:
            self._study.tell(trial, objective)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)


def _asked(trial: Trial, key: str, dimension: Dimension) -> Any:
    if dimension.uniform is not None:
        return trial.suggest_float(key, *dimension.uniform)
    if dimension.log_uniform is not None:
        return trial.suggest_float(key, *dimension.log_uniform, log=True)
    if dimension.whole is not None:
        listed = dimension.listed or ()
        return trial.suggest_int(key, listed[0], listed[-1], step=dimension.step)
    # Optuna's own choices are scalars; places in the list stand for any value.
    listed = dimension.listed or ()
    return listed[trial.suggest_categorical(key, range(len(listed)))]
