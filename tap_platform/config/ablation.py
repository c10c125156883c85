"""An ablation: one pipeline in several variants, each by several seeds, told in tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tap_platform.config.base import Section
from tap_platform.config.explain import explain
from tap_platform.config.load import read_tree_over_base

PLAIN = r"^[a-z0-9][a-z0-9_-]{0,40}$"


class AblationStage(Section):
    """One stage of every variant: a job, as far as the variants share it."""

    name: str = Field(pattern=PLAIN)
    """What tables and variants call it."""
    after: str | None = None
    """The earlier stage whose run it starts from; none starts anew."""
    job: dict[str, Any] = Field(default_factory=dict)
    """Keys of a job, laid over `base`."""


class Variant(Section):
    """One row of a table."""

    about: str
    """What it is, in a few words."""
    changes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Keys of the jobs that make it, by stage. Stages that come out the same for two variants, with
    all that they start from, are run once."""
    stages: tuple[str, ...] | None = None
    """The stages that it goes through; all by default."""


class Measure(Section):
    """One column of a table."""

    title: str
    """Its head."""
    stage: str
    """Whose scores are read."""
    score: str
    """Which of the `trained` scores in the run's `report/scores.json`."""
    unit: Literal["%", ""] = "%"
    """Scores are shown times 100: shares in percent, CIDEr and METEOR without a unit."""


class AblationTable(Section):
    """Variants beside each other."""

    title: str
    """What it shows."""
    variants: tuple[str, ...] = Field(min_length=1)
    """Its rows, in order."""
    measures: tuple[Measure, ...] = Field(min_length=1)
    """Its columns."""
    rising: bool = False
    """Whether a paper has the rows in rising order: the table then says which steps came out so, by
    how much, and in how many seeds."""


class AblationConfig(Section):
    """A file under `ablations/`."""

    located: ClassVar[tuple[str, ...]] = ("storage",)

    name: str = Field(pattern=PLAIN)
    """Its name; its runs are named after it."""
    project: str = Field("ablations", pattern=PLAIN)
    """The project that its runs lie in."""
    storage: str = "runs"
    """Folder of all projects."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Every variant is run once for each: a job's `seed`, and with it the initial weights."""
    at_once: int = Field(1, gt=0)
    """Runs that train side by side."""
    base: dict[str, Any]
    """A job document that all stages share; `extends:` names a file, relative to this one."""
    stages: tuple[AblationStage, ...] = Field(min_length=1)
    """The pipeline, in order."""
    variants: dict[str, Variant] = Field(min_length=1)
    """The variants, by the names that tables show."""
    tables: tuple[AblationTable, ...] = Field(min_length=1)
    """What is printed at the end."""

    def stages_of(self, variant: str) -> tuple[AblationStage, ...]:
        """The stages that a variant goes through, in order."""
        wanted = self.variants[variant].stages
        return tuple(s for s in self.stages if wanted is None or s.name in wanted)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("names one seed twice: two runs of one seed are the same run")
        return seeds

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [stage.name for stage in self.stages]
        for number, stage in enumerate(self.stages):
            if stage.name in names[:number]:
                raise ValueError(f"two stages are named {stage.name!r}")
            if stage.after is not None and stage.after not in names[:number]:
                raise ValueError(
                    f"stage {stage.name!r} comes after {stage.after!r}, which is no earlier stage"
                )
        for name, variant in self.variants.items():
            _check(f"variant {name!r}", [*variant.changes, *(variant.stages or ())], names)
            through = [stage.name for stage in self.stages_of(name)]
            for stage in self.stages_of(name):
                if stage.after is not None:
                    _check(f"variant {name!r} without", [stage.after], through)
        for table in self.tables:
            _check(f"table {table.title!r}", table.variants, list(self.variants))
            _check(f"table {table.title!r}", [each.stage for each in table.measures], names)
        return self


def _check(where: str, wanted: list[str] | tuple[str, ...], known: list[str]) -> None:
    for each in wanted:
        if each not in known:
            raise ValueError(f"{where} names {each!r}; there are {', '.join(known)}")


def load_ablation(path: Path, overrides: Sequence[str] = ()) -> AblationConfig:
    """Read an ablation from YAML.

    Args:
        path: the file.
        overrides: `key.path=value`, such as `seeds=[0]` or `base.training.max_steps=10`.

    Raises:
        ValueError: for a missing or broken file, or one that does not validate.
    """
    tree = read_tree_over_base(path, overrides)
    try:
        config = AblationConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error, AblationConfig, str(path))) from None
    return config.model_copy(update={"storage": str(Path(config.storage).expanduser().absolute())})
