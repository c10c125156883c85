"""What a pipeline came to: one row a stage, read from the run directories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tap_platform.config.pipeline import EvaluationStage, JobStage, PipelineConfig
from tap_platform.launch.stages import stage_run
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.files import read_json, write_atomic
from tap_platform.runs.metrics import read_metrics
from tap_platform.runs.status import read_status

COLUMNS = ("stage", "steps", "minutes", "held-out scores", "directory")
LEARNED = {
    "box_iou": ("IoU by box", 100),
    "point_iou": ("by point", 100),
    "concept_top1": ("concept top-1", 100),
    "cider": ("CIDEr", 100),
    "meteor": ("METEOR", 100),
}
"""The final scores of a run that are shown: their titles, and what they are multiplied by."""
MEASURED = {
    "instances": "AP",
    "classification": "AP",
    "prompts": "1 point",
    "captions": "CIDEr",
}
"""The first figure of each suite of `tap eval`."""


class Row(NamedTuple):
    """One stage."""

    stage: str
    steps: str
    minutes: str
    scores: str
    directory: str


def print_summary(pipeline: PipelineConfig, parent: RunDirectory, console: Console) -> None:
    """Print the table of all stages, and write it to the parent's `report/summary.md`."""
    rows = [_row(stage, parent) for stage in pipeline.stages]
    write_atomic(parent.report / "summary.md", _markdown(parent.name, rows).encode())
    table = Table(title=parent.name, title_justify="left")
    for column in COLUMNS:
        table.add_column(
            column, overflow="fold", justify="right" if column in COLUMNS[1:3] else "left"
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(
        f"directories    {parent.path.parent}\nsummary        {parent.report / 'summary.md'}",
        soft_wrap=True,
        highlight=False,
    )


def _markdown(title: str, rows: list[Row]) -> str:
    lines = [f"# {title}", "", "| " + " | ".join(COLUMNS) + " |", "|---|---:|---:|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


def _row(stage: JobStage | EvaluationStage, parent: RunDirectory) -> Row:
    if isinstance(stage, EvaluationStage):
        folder = parent.report / stage.name
        seconds = read_events(parent.events, kind="stage_finished")
        spent = sum(event["seconds"] for event in seconds if event["stage"] == stage.name)
        scores = "; ".join(_measured(read_json(folder / "report.json")))
        where = folder.relative_to(parent.path.parent)
        return Row(stage.name, "", _minutes(spent), scores, str(where))
    run = stage_run(parent, stage.name)
    steps = str(read_status(run.status).step)
    return Row(stage.name, steps, _minutes(_seconds(run)), ", ".join(_learned(run)), run.name)


def _learned(run: RunDirectory) -> Iterator[str]:
    """The scores of a run's own final table."""
    final = [record for record in read_metrics(run.metrics) if record.kind == "final"]
    values = final[-1].values if final else {}
    for name, (title, scale) in LEARNED.items():
        if name in values:
            yield f"{title} {scale * values[name]:.1f}"


def _measured(report: Mapping[str, Any]) -> Iterator[str]:
    """The first figure of each suite in a report of `tap eval`."""
    for suite, told in report["suites"].items():
        name = MEASURED[suite]
        value = told["metrics"].get(name)
        if value is not None:
            yield f"{suite} {name} {100 * value:.1f}"


def _seconds(run: RunDirectory) -> float:
    """Time spent on a run: from the start of each attempt to its last sign of life."""
    times: dict[int, list[datetime]] = {}
    signs = [(event["attempt"], event["time"]) for event in read_events(run.events)]
    signs += [(record.attempt, record.time) for record in read_metrics(run.metrics)]
    for attempt, time in signs:
        times.setdefault(attempt, []).append(datetime.fromisoformat(time))
    return sum((max(each) - min(each)).total_seconds() for each in times.values())


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"
