"""A pipeline: jobs one after the other, each from the weights of an earlier one."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tap_platform.config.base import Section
from tap_platform.config.job import JobConfig
from tap_platform.config.model import WEIGHT_FIELDS
from tap_platform.config.tracking import TrackingConfig

NAME = r"^[a-z0-9][a-z0-9_-]{0,30}$"
ALL = "all"
"""Stands for every job of a pipeline in overrides."""
SHARED = ("name", "project", "storage")
"""What a pipeline says once for all of its stages."""
PREVIOUS = "previous"
STAGE = "stage:"
"""Begins the name of an earlier stage where the name of a run could stand."""


def _plain(name: str) -> str:
    if name in (ALL, *SHARED):
        raise ValueError(f"no stage may be named {name!r}, which has a meaning in overrides")
    return name


StageName = Annotated[str, Field(pattern=NAME), AfterValidator(_plain)]


class EvaluateConfig(Section):
    """What `tap eval` measures of the run of an earlier stage."""

    run: str = PREVIOUS
    """Whose run: `previous`, the last one that was trained, or `stage:NAME`."""
    suite: Literal["instances", "classification", "prompts", "captions", "all"] = "all"
    """What to measure; of `all`, what the data or the model do not allow is left out."""
    data: str | None = None
    """COCO's or LVIS's JSON, a folder with one and images, or shards; by default the run's own
    held-out images."""
    images: int | None = Field(None, gt=0)
    """Only the first so many images; all by default."""
    workers: int = Field(1, ge=0)
    """Ray actors that hold the model; 0 for the driver alone."""


class JobStage(Section):
    """A stage that trains: an ordinary run of an ordinary job."""

    name: StageName
    """What other stages and overrides call it."""
    job: JobConfig
    """The whole job. Its `init_from` may be `previous` or `stage:NAME`."""


class EvaluationStage(Section):
    """A stage that measures."""

    name: StageName
    """What overrides call it, and the folder of its report."""
    evaluate: EvaluateConfig
    """What is measured, of which stage."""


class PipelineDocument(Section):
    """What a pipeline's file says."""

    name: str = Field(pattern=NAME)
    """Name of the pipeline: lower-case letters, digits, `-` and `_`. Runs are named after it."""
    project: str = Field("tap", pattern=NAME)
    """The project that the runs of all stages lie in."""
    storage: str = "runs"
    """Folder that holds `<project>/<run>/`, the run directories of all stages."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Keys of a job, `extends` among them, that every stage lays its own over."""
    stages: tuple[dict[str, Any], ...] = Field(min_length=1)
    """The stages in their order: a `name`, and keys of a job, or `evaluate`."""


class PipelineConfig(Section):
    """A pipeline, resolved."""

    name: str = Field(pattern=NAME)
    """Name of the pipeline."""
    project: str
    """The project of all stages."""
    storage: str
    """The storage of all stages."""
    stages: tuple[JobStage | EvaluationStage, ...] = Field(min_length=1)
    """What is done, in order."""

    @property
    def job_stages(self) -> list[JobStage]:
        """The stages that train; there is at least one, for the others look at their runs."""
        return [stage for stage in self.stages if isinstance(stage, JobStage)]

    @property
    def tracking(self) -> TrackingConfig:
        """Where the pipeline itself is shown: where its first stage is."""
        return self.job_stages[0].job.tracking

    @property
    def identity(self) -> str:
        """sha256 of the resolved pipeline."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def source_of(self, stage: JobStage | EvaluationStage) -> JobStage | None:
        """The earlier stage whose run a stage starts from, or measures; None if it is no stage's.

        Raises:
            ValueError: if there is no such stage before it.
        """
        place = self.stages.index(stage)
        earlier = [each for each in self.stages[:place] if isinstance(each, JobStage)]
        if isinstance(stage, EvaluationStage):
            found = _named(stage.evaluate.run, earlier, f"stage {stage.name}: evaluate.run")
            if found is None:
                raise ValueError(
                    f"stage {stage.name}: evaluate.run {stage.evaluate.run!r} is no stage: take"
                    f" `{PREVIOUS}` or `{STAGE}NAME`; `tap eval` measures other runs"
                )
            return found
        if stage.job.init_from is None:
            return None
        return _named(stage.job.init_from.source, earlier, f"stage {stage.name}: init_from")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [stage.name for stage in self.stages]
        twice = [name for place, name in enumerate(names) if name in names[:place]]
        if twice:
            raise ValueError(f"two stages are named {twice[0]!r}: names tell their runs apart")
        return self

    @model_validator(mode="after")
    def _stages_fit_what_they_start_from(self) -> Self:
        for stage in self.stages:
            source = self.source_of(stage)
            if isinstance(stage, JobStage) and source is not None:
                _check_sizes(stage, source)
        return self


def means_stage(word: str) -> bool:
    """Whether a source of weights is a stage, and not a run or a file."""
    return word == PREVIOUS or word.startswith(STAGE)


def _named(word: str, earlier: Sequence[JobStage], where: str) -> JobStage | None:
    """The earlier stage that a word means; None for a word that means none."""
    if word == PREVIOUS:
        if not earlier:
            raise ValueError(f"{where}: {PREVIOUS}: no stage before it trains anything")
        return earlier[-1]
    if not means_stage(word):
        return None
    name, stages = word.removeprefix(STAGE), {stage.name: stage for stage in earlier}
    if name not in stages:
        near = difflib.get_close_matches(name, stages, n=1)
        hint = f"did you mean {STAGE}{near[0]}?" if near else f"there are: {', '.join(stages)}"
        raise ValueError(
            f"{where}: {word}: no stage of that name trains before it; "
            + (hint if stages else "it is the first")
        )
    return stages[name]


def _check_sizes(stage: JobStage, source: JobStage) -> None:
    """Refuse weights that cannot fit, unless some of them are to start anew."""
    assert stage.job.init_from is not None, "only then is there a source"
    if stage.job.init_from.skip:
        return
    own, there = stage.job.model, source.job.model
    differing = [
        f"model.{field} is {getattr(own, field)} here and {getattr(there, field)} there"
        for field in type(own).model_fields
        if field in WEIGHT_FIELDS and getattr(own, field) != getattr(there, field)
    ]
    if differing:
        raise ValueError(
            f"stage {stage.name} starts from stage {source.name}, whose weights do not fit it:"
            f" {'; '.join(differing)}; write the model once, in `base`, or name in init_from.skip"
            " what starts anew"
        )
