"""Run a pipeline: each stage an ordinary run, all of them under one parent run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from tap_platform.config.explain import explain
from tap_platform.config.job import JobConfig
from tap_platform.config.load_pipeline import load_pipeline
from tap_platform.config.pipeline import EvaluationStage, JobStage, PipelineConfig
from tap_platform.launch.pipeline_checks import check_pipeline
from tap_platform.launch.pipeline_summary import print_summary
from tap_platform.launch.ray_session import cpus_needed, joined_ray, ray_session
from tap_platform.launch.stages import has_finished, recorded, run_stage, stage_run, told
from tap_platform.runs import provenance
from tap_platform.runs.directory import RunDirectory, check_storage, new_run_name
from tap_platform.runs.events import read_events
from tap_platform.runs.files import read_json, write_json
from tap_platform.runs.status import update_status


def start_pipeline(spec: Path, overrides: Sequence[str] = ()) -> RunDirectory:
    """Run the pipeline of a file from its first stage to its last.

    Returns:
        The parent run's directory.

    Raises:
        ValueError: if a stage, whichever it is, or its data is refused; nothing has been run then.
        RunFailedError: if a stage failed, or was stopped.
    """
    pipeline = load_pipeline(spec, overrides)
    check_storage(pipeline.storage)
    check_pipeline(pipeline)
    parent = RunDirectory.create(pipeline.storage, pipeline.project, new_run_name(pipeline.name))
    made_of = provenance.collect(config_hash=pipeline.identity)
    write_json(parent.provenance, made_of.to_json())
    write_json(parent.pipeline, pipeline.model_dump(mode="json"))
    return _run(pipeline, parent)


def resume_pipeline(name: str, storage: str = "runs") -> RunDirectory:
    """Go on with a pipeline from the stage and the step that it was in.

    Args:
        name: the parent run's name, or the path of its directory.
        storage: where to look for a name.

    Raises:
        ValueError: if there is no such pipeline, or a stage or its data is refused.
        RunFailedError: if a stage failed, or was stopped.
    """
    parent = RunDirectory.find(storage, name)
    return _run(read_pipeline(parent), parent)


def read_pipeline(parent: RunDirectory) -> PipelineConfig:
    """The stages of a parent run.

    Raises:
        ValueError: if the run is none of a pipeline, or its stages do not validate.
    """
    if not parent.pipeline.is_file():
        how = shlex.quote(str(parent.path))
        raise ValueError(
            f"{parent.name} is no pipeline; a run of a job goes on with: tap train --resume {how}"
        )
    try:
        return PipelineConfig.model_validate(read_json(parent.pipeline))
    except ValidationError as error:
        raise ValueError(explain(error, PipelineConfig, str(parent.pipeline))) from None


def _run(pipeline: PipelineConfig, parent: RunDirectory) -> RunDirectory:
    console = Console()
    names = " → ".join(stage.name for stage in pipeline.stages)
    console.print(f"[bold]{parent.name}[/]: {names}", highlight=False, soft_wrap=True)
    with recorded(parent, len(pipeline.stages), tracking=pipeline.tracking):
        to_do = [stage for stage in pipeline.stages if not _is_finished(stage, parent)]
        with _ray_for(pipeline) if to_do else nullcontext():
            for number, stage in enumerate(pipeline.stages, start=1):
                _do(stage, pipeline, parent, console)
                update_status(parent.status, step=number)
        print_summary(pipeline, parent, console)
    return parent


@contextmanager
def _ray_for(pipeline: PipelineConfig) -> Iterator[None]:
    """One Ray for all stages, with room for the widest.

    Raises:
        ValueError: if a Ray that exists is too small for a stage.
    """
    jobs = [stage.job for stage in pipeline.job_stages]
    evaluations = [s.evaluate for s in pipeline.stages if isinstance(s, EvaluationStage)]
    most = max([*map(cpus_needed, jobs), *(each.workers + 1 for each in evaluations)])
    with joined_ray(most):
        for job in jobs:
            with ray_session(job):
                pass  # It has looked for room.
        yield


def _is_finished(stage: JobStage | EvaluationStage, parent: RunDirectory) -> bool:
    if isinstance(stage, JobStage):
        return has_finished(stage_run(parent, stage.name))
    done = read_events(parent.events, kind="stage_finished")
    return any(event["stage"] == stage.name for event in done)


def _do(
    stage: JobStage | EvaluationStage,
    pipeline: PipelineConfig,
    parent: RunDirectory,
    console: Console,
) -> None:
    """Bring a stage to its end, if it is not there."""
    source = pipeline.source_of(stage)
    start = stage_run(parent, source.name) if source else None
    if isinstance(stage, JobStage):
        run_stage(_starting_from(stage.job, start), parent, stage.name, console)
    elif not _is_finished(stage, parent):
        assert source is not None
        assert start is not None
        _evaluate(stage, source.job, start, parent, console)


def _starting_from(job: JobConfig, run: RunDirectory | None) -> JobConfig:
    """The job with the run that a stage's name stands for."""
    if job.init_from is None or run is None:
        return job
    source = job.init_from.replaced(source=str(run.path))
    return job.model_copy(update={"init_from": source})


def _evaluate(
    stage: EvaluationStage,
    job: JobConfig,
    run: RunDirectory,
    parent: RunDirectory,
    console: Console,
) -> None:
    """Measure a run; its report lies in the parent's."""
    from tap_platform.launch.run_evaluation import (
        EvaluationSettings,
        named_suites,
        run_evaluation,
    )

    wanted = stage.evaluate
    settings = EvaluationSettings(
        source=str(run.path),
        suites=named_suites(wanted.suite),
        data=Path(wanted.data) if wanted.data else None,
        images=wanted.images,
        workers=wanted.workers,
        device={"auto": "auto", "cpu": "cpu", "gpu": "cuda"}[job.scale.device],
    )
    with told(parent, stage.name, console):
        run_evaluation(settings, parent.report / stage.name, console)
