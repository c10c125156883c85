"""What a job will do, before anything is scheduled."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from tap_platform.config.job import JobConfig
from tap_platform.launch.parameters import count_parameters

TRAINED_PARTS = ("image_encoder", "prompt_encoder", "image_decoder")


class BatchArithmetic(BaseModel):
    """Who computes which part of a global batch."""

    global_batch: int
    workers: int
    micro_batch: int
    accumulation: int
    partitions: int
    partitions_per_worker: int
    images_per_partition: int
    regions_at_most: int
    images_in_all: int


class Plan(BaseModel):
    """The resolved job and what follows from it."""

    job: dict[str, Any]
    identity: str
    parameters: dict[str, int]
    trained_parameters: int
    batch: BatchArithmetic


def make_plan(job: JobConfig) -> Plan:
    """Work out a job's parameters and batches."""
    parameters = count_parameters(job.model)
    training, scale, partitions = job.training, job.scale, job.data.partitions
    return Plan(
        job=job.model_dump(mode="json"),
        identity=job.identity,
        parameters=parameters,
        trained_parameters=sum(parameters[part] for part in TRAINED_PARTS),
        batch=BatchArithmetic(
            global_batch=training.global_batch,
            workers=scale.workers,
            micro_batch=job.micro_batch,
            accumulation=job.accumulation,
            partitions=partitions,
            partitions_per_worker=partitions // scale.workers,
            images_per_partition=training.global_batch // partitions,
            regions_at_most=training.global_batch * job.data.regions_per_image,
            images_in_all=training.global_batch * training.max_steps,
        ),
    )


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print a plan for people."""
    console = console or Console()
    console.print(Syntax(yaml.safe_dump(plan.job, sort_keys=False), "yaml", theme="ansi_light"))
    console.print(f"identity {plan.identity}\n")
    table = Table(title="Parameters", title_justify="left")
    table.add_column("part")
    table.add_column("count", justify="right")
    table.add_column("trained")
    for part, count in plan.parameters.items():
        table.add_row(part, f"{count:,}", "yes" if part in TRAINED_PARTS else "no")
    table.add_section()
    table.add_row("in all", f"{sum(plan.parameters.values()):,}", f"{plan.trained_parameters:,}")
    console.print(table)
    console.print(_batch_sentence(plan.batch))


def _batch_sentence(batch: BatchArithmetic) -> str:
    return (
        f"\nA global batch of {batch.global_batch} images = {batch.workers} workers x"
        f" {batch.micro_batch} images x {batch.accumulation} micro-batches;\n"
        f"{batch.partitions} partitions give {batch.images_per_partition} images each, a worker"
        f" reads {batch.partitions_per_worker} of them;\n"
        f"at most {batch.regions_at_most:,} regions a step, {batch.images_in_all:,} images in all."
    )
