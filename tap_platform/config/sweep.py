"""A sweep: one job in many trials, and what is to come out best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from tap_platform.config.base import Section
from tap_platform.config.explain import explain
from tap_platform.config.load import parse_override, read_tree_over_base
from tap_platform.config.space import KINDS, Dimension

SPACE = "space."


class SweepObjective(Section):
    """What is measured of a trial."""

    metric: str = Field(pattern=r"^[^/\s]+/\S+$")
    """A measure of `metrics.jsonl` as dashboards show it, such as `val/box_iou` or `train/loss`. Of
    one that begins with `val/`, the job needs `evaluation.every_steps`."""
    mode: Literal["max", "min"] = "max"
    """Whether the highest or the lowest is best."""

    def better(self, value: float, than: float) -> bool:
        """Whether one value beats another."""
        return value > than if self.mode == "max" else value < than


class SearchConfig(Section):
    """Which values are tried."""

    type: Literal["random", "grid", "optuna"] = "random"
    """`random` draws; `grid` tries every combination of a space of lists; `optuna` learns from the
    trials before (its TPE sampler)."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the draws, and of a grid's order: a sweep of the same seed tries the same values."""
    startup_trials: int = Field(10, ge=0)
    """Of `optuna`: trials that are drawn at random before anything has been learned."""


class RunToTheEnd(Section):
    """No trial is stopped early."""

    type: Literal["none"] = "none"
    """Every trial makes all its steps."""


class Asha(Section):
    """Asynchronous successive halving: at every rung, only the best share of trials goes on."""

    type: Literal["asha"]
    """Rungs are at `grace_steps`, `grace_steps * reduction`, `grace_steps * reduction ** 2`…"""
    grace_steps: int = Field(gt=0)
    """Steps that every trial makes: the first rung."""
    reduction: float = Field(3.0, gt=1)
    """One in so many goes on from a rung to the next."""


class MedianRule(Section):
    """A trial stops whose best is below the median of the others' means so far."""

    type: Literal["median"]
    """Google Vizier's rule."""
    grace_steps: int = Field(gt=0)
    """Steps that every trial makes."""
    least_trials: int = Field(3, gt=0)
    """Others that have come as far, before one is stopped."""


class Population(Section):
    """Population-based training: bad trials go on from the weights of good ones, with new values.

    Values of `optimizer.*` and `recipe.objective.*` can change while a trial trains, no others.
    """

    type: Literal["pbt"]
    """All trials train side by side; none is stopped."""
    every_steps: int = Field(gt=0)
    """Steps between two looks at a trial; it writes a checkpoint then, which stays."""
    quantile: float = Field(0.25, gt=0, le=0.5)
    """Share of the trials that is bad, and that is good."""
    resample: float = Field(0.25, ge=0, le=1)
    """How often a value is drawn anew, rather than multiplied by 0.8 or 1.2, or taken from beside
    it in its list."""


Scheduler = Annotated[RunToTheEnd | Asha | MedianRule | Population, Field(discriminator="type")]


class SweepBudget(Section):
    """What a sweep may take at most; the first end that is reached ends it.

    Its resumed parts count together. Of hours and money, what trials need to end is kept back.
    """

    trials: int | None = Field(None, gt=0)
    """Trials in all. A grid has an end of its own."""
    hours: float | None = Field(None, gt=0)
    """Hours by the clock while the sweep runs."""
    gpu_hours: float | None = Field(None, gt=0)
    """Hours of all GPUs of all trials together, from each trial's start on; on a place without
    GPUs, of its workers."""
    money: float | None = Field(None, gt=0)
    """In the currency of the profile that `place` names, at its prices."""


class SweepConfig(Section):
    """A file under `sweeps/`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    """Its name, and its trials': `NAME-t0003`. A project has one sweep of a name."""
    base: dict[str, Any]
    """A job document that the trials share; `extends:` names a file, relative to this one. Project
    and storage are the sweep's too."""
    folder: str = "."
    """Where relative paths of the job begin; by default the caller's folder."""
    space: dict[str, Dimension] = Field(min_length=1)
    """What is varied: any dotted key of the job, such as `optimizer.lr`, and its values."""
    objective: SweepObjective
    """What is to come out best."""
    search: SearchConfig = SearchConfig()
    """Which values are tried."""
    scheduler: Scheduler = RunToTheEnd()
    """Which trials are stopped early."""
    budget: SweepBudget = SweepBudget()
    """When it ends."""
    place: str | None = None
    """Profile whose prices count, by name or path; `--on` sets it."""
    at_once: int | None = Field(None, gt=0)
    """Trials side by side, at most; by default as many as find room."""
    retries: int = Field(2, ge=0)
    """How often a trial whose driver died goes on from its checkpoint. Its workers' failures are
    the job's to count, by `scale.max_failures`."""

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        budget = self.budget
        if self.search.type != "grid" and budget == SweepBudget():
            raise ValueError(
                f"budget: search {self.search.type} never ends by itself: give trials, hours,"
                " gpu_hours or money"
            )
        if budget.money is not None and self.place is None:
            raise ValueError("budget.money needs prices: name a profile by `place`, or --on")
        return self

    @model_validator(mode="after")
    def _conditions_stand_above(self) -> Self:
        above: list[str] = []
        for key, dimension in self.space.items():
            for other in dimension.when:
                if other not in above:
                    told = ", ".join(above) or "none"
                    raise ValueError(
                        f"space.{key}: when names {other!r}, and the keys above it are: {told}"
                    )
            above.append(key)
        return self

    @model_validator(mode="after")
    def _search_fits(self) -> Self:
        kinds = {key: dimension.kind for key, dimension in self.space.items()}
        if self.search.type == "grid":
            endless = [key for key, kind in kinds.items() if "uniform" in kind]
            if endless:
                raise ValueError(
                    f"search grid tries all values, and {', '.join(endless)} has no end of them:"
                    " give lists (grid or choice), or take search random"
                )
        elif self.search.type == "optuna" and "grid" in kinds.values():
            raise ValueError("search optuna chooses by itself: write choice instead of grid")
        if isinstance(self.scheduler, Population):
            self._check_population()
        return self

    def _check_population(self) -> None:
        if self.search.type != "random" or self.budget.trials is None:
            raise ValueError(
                "scheduler pbt begins with a population that is drawn: take search random, and"
                " give its size by budget.trials"
            )
        if self.budget.trials < 2:
            raise ValueError("scheduler pbt needs two trials or more: raise budget.trials")
        for key, dimension in self.space.items():
            if not key.startswith(("optimizer.", "recipe.objective.")) or dimension.when:
                raise ValueError(
                    f"space.{key}: scheduler pbt changes values while a trial trains, which"
                    " optimizer.* and recipe.objective.* bear, without when"
                )


def load_sweep(path: Path, overrides: Sequence[str] = (), place: str | None = None) -> SweepConfig:
    """Read a sweep from YAML.

    Args:
        path: the file.
        overrides: `key.path=value`, such as `budget.trials=4`, `base.training.max_steps=10` or
            `space.optimizer.lr.log_uniform=[1e-4, 1e-2]`.
        place: a profile's name or path, before the file's.

    Raises:
        ValueError: for a missing or broken file, or one that does not validate.
    """
    of_space = [each for each in overrides if each.startswith(SPACE)]
    tree = read_tree_over_base(path, [each for each in overrides if each not in of_space])
    for override in of_space:
        tree["space"] = {**(tree.get("space") or {}), **_dimension(override)}
    if place is not None:
        tree["place"] = place
    _anchor_weights(tree.get("base"))
    tree["folder"] = str(Path(str(tree.get("folder", "."))).expanduser().absolute())
    return validate_sweep(tree, str(path))


def _dimension(override: str) -> dict[str, Any]:
    """A key of the space, dots and all, with its values; those that it had before are gone."""
    key, _, value = override.removeprefix(SPACE).partition("=")
    above, _, last = key.rpartition(".")
    given = parse_override(f"given={value}")["given"]
    return {above: {last: given}} if above and last in KINDS else {key: given}


def _anchor_weights(base: Any) -> None:
    """Make the path of initial weights absolute, if it is one: it may be a run's name too."""
    start = base.get("init_from") if isinstance(base, dict) else None
    source = start.get("source") if isinstance(start, dict) else start
    if isinstance(source, str) and Path(source).expanduser().exists():
        path = str(Path(source).expanduser().absolute())
        base["init_from"] = {**start, "source": path} if isinstance(start, dict) else path


def validate_sweep(tree: Any, where: str) -> SweepConfig:
    """Validate a plain tree; `where` names it in error messages.

    Raises:
        ValueError: with one line for every fault.
    """
    try:
        return SweepConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error, SweepConfig, where)) from None
