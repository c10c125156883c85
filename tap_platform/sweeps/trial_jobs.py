"""The job of a trial, and every job of a sweep checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from tap_platform.config.job import JobConfig
from tap_platform.config.load import anchored_at, merge, validate_job
from tap_platform.config.sweep import Population, SweepConfig
from tap_platform.sweeps.draws import Values, grid_order, random_values

SHARED = ("name", "project", "storage")
"""Keys that the trials of a sweep have in common."""
SAMPLED = 100
"""Trials whose data and room are looked at before the first one starts."""
MOST_CHECKED = 1000
"""Trials whose jobs are checked before the first one starts; a job takes a millisecond."""


def trial_job(config: SweepConfig, values: Mapping[str, Any]) -> JobConfig:
    """The job of a trial.

    Args:
        config: the sweep.
        values: its values, by dotted key.

    Raises:
        ValueError: if the job does not validate so.
    """
    tree = merge(config.base, _of_scheduler(config))
    for key, value in values.items():
        tree = merge(tree, _nested(key, value))
    told = ", ".join(f"{key}={value}" for key, value in values.items())
    job = validate_job(tree, f"sweep {config.name}, {told or 'base'}")
    return anchored_at(job, config.folder)


def check_jobs(config: SweepConfig) -> JobConfig:
    """Refuse a space with a value that the job does not take, alone or beside the others.

    Returns:
        The job of the base alone.

    Raises:
        ValueError: if a key does not exist, a value is none of it, the base itself is refused, or
            the objective is never measured, or a population keeps checkpoints elsewhere.
    """
    base = trial_job(config, {})
    if named := [key for key in config.space if key in SHARED]:
        raise ValueError(f"space.{named[0]}: trials lie together and share it: leave it out")
    if isinstance(config.scheduler, Population) and base.checkpoint.storage is not None:
        raise ValueError(
            "base.checkpoint.storage: trials of a population take each other's checkpoints, which"
            " lie in their runs' directories: leave it out"
        )
    for values in _alone(config):
        _check_objective(config, trial_job(config, values))
    for values in islice(known_values(config), MOST_CHECKED):
        trial_job(config, values)
    return base


def known_values(config: SweepConfig) -> Iterator[Values]:
    """The trials that will come, as far as that is known; else some that may."""
    if config.search.type == "grid":
        yield from grid_order(config.space, config.search.seed)
        return
    for number in range(config.budget.trials or MOST_CHECKED):
        yield random_values(config.space, config.search.seed, number)


def _alone(config: SweepConfig) -> Iterator[Values]:
    """Each key at its ends, beside the first values for which it is varied at all."""
    for key, dimension in config.space.items():
        beside = {other: wanted[0] for other, wanted in dimension.when.items()}
        for value in dimension.extremes:
            yield {**beside, key: value}


def sample_jobs(config: SweepConfig) -> list[JobConfig]:
    """Jobs of trials that stand for all: the base, every key at its ends, and those to come."""
    known = islice(known_values(config), SAMPLED)
    return [trial_job(config, values) for values in ({}, *_alone(config), *known)]


def _check_objective(config: SweepConfig, job: JobConfig) -> None:
    metric = config.objective.metric
    kind = metric.partition("/")[0]
    if kind == "val" and job.evaluation.every_steps is None:
        raise ValueError(
            f"objective.metric {metric}: the job never looks at held-out images while it trains:"
            " set base.evaluation.every_steps"
        )
    every = job.evaluation.every_steps if kind == "val" else job.training.log_every
    steps = getattr(config.scheduler, "every_steps", every)
    if every and steps and steps % every:
        raise ValueError(
            f"scheduler.every_steps {steps}: {metric} is measured every {every} steps, which does"
            " not divide it"
        )
    if every is not None and every > job.training.max_steps:
        raise ValueError(
            f"objective.metric {metric} is measured every {every} steps, and a trial has"
            f" {job.training.max_steps}: it would never be"
        )


def _of_scheduler(config: SweepConfig) -> dict[str, Any]:
    """A trial of a population keeps the checkpoints from which others may go on."""
    if not isinstance(config.scheduler, Population):
        return {}
    steps = config.scheduler.every_steps
    return {"checkpoint": {"every_steps": steps, "keep_every": steps, "background": False}}


def _nested(key: str, value: Any) -> dict[str, Any]:
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return dict(tree)
