"""What the stages of a pipeline will do, before anything is scheduled."""

from __future__ import annotations

from pathlib import PurePath

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from tap_platform.config.pipeline import EvaluationStage, JobStage, PipelineConfig
from tap_platform.launch.plan import DataShare, Plan, make_plan


class StagePlan(BaseModel):
    """One stage."""

    name: str
    starts_from: str | None
    """The earlier stage whose run it starts from or measures, or other weights."""
    plan: Plan | None
    """Of its job; None for a stage that measures."""


class PipelinePlan(BaseModel):
    """All stages, in order."""

    name: str
    identity: str
    stages: list[StagePlan]


def make_pipeline_plan(pipeline: PipelineConfig) -> PipelinePlan:
    """Work out parameters, batches and data of every stage.

    Raises:
        ValueError: if a data set of a mixture has too small a weight.
    """
    return PipelinePlan(
        name=pipeline.name,
        identity=pipeline.identity,
        stages=[_stage_plan(stage, pipeline) for stage in pipeline.stages],
    )


def _stage_plan(stage: JobStage | EvaluationStage, pipeline: PipelineConfig) -> StagePlan:
    source = pipeline.source_of(stage)
    if isinstance(stage, EvaluationStage):
        assert source is not None, "there is a run to measure"
        return StagePlan(name=stage.name, starts_from=source.name, plan=None)
    weights = stage.job.init_from
    return StagePlan(
        name=stage.name,
        starts_from=source.name if source else weights and weights.source,
        plan=make_plan(stage.job),
    )


def print_pipeline_plan(plan: PipelinePlan, console: Console | None = None) -> None:
    """Print a row for each stage."""
    console = console or Console()
    table = Table(title=plan.name, title_justify="left")
    for column in ("stage", "starts from", "trains"):
        table.add_column(column, overflow="fold")
    for column in ("steps", "batch"):
        table.add_column(column, justify="right")
    table.add_column("epochs", overflow="fold")
    for stage in plan.stages:
        table.add_row(*_cells(stage))
    console.print(table)
    console.print(f"identity {plan.identity}")


def _cells(stage: StagePlan) -> tuple[str, ...]:
    if stage.plan is None:
        return stage.name, stage.starts_from or "", "nothing"
    plan = stage.plan
    return (
        stage.name,
        stage.starts_from or "random weights",
        "\n".join(part.replace("_", " ") for part in plan.trained_parts),
        f"{plan.job['training']['max_steps']:,}",
        str(plan.batch.global_batch),
        "\n".join(map(_epochs, plan.data)),
    )


def _epochs(share: DataShare) -> str:
    """How often a stage goes through a data set, which is called by its folder."""
    name = PurePath(share.folder).name
    return f"{name}: not there yet" if share.epochs is None else f"{name}: {share.epochs:.3g}"
