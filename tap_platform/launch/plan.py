"""What a job will do, before anything is scheduled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from datamodules.order.mixture import CYCLE, cycle_slots
from tap_platform.config.job import JobConfig
from tap_platform.launch.data_sets import DataSet, data_sets
from tap_platform.launch.parameters import count_parameters


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


class DataShare(BaseModel):
    """What one data set gives to the run."""

    folder: str
    slots: int
    """Samples that it gives of every `CYCLE` in a row of a partition."""
    samples: int | None
    """Training samples; None where the set is not made yet, or cannot be read from here."""
    epochs: float | None
    """How often the run goes through them."""
    sha256: str | None
    """Hash of their index."""


class Plan(BaseModel):
    """The resolved job and what follows from it."""

    job: dict[str, Any]
    identity: str
    parameters: dict[str, int]
    """By the part of the model."""
    trained_parts: list[str]
    """The others rest."""
    trained_parameters: int
    batch: BatchArithmetic
    data: list[DataShare]


def make_plan(job: JobConfig) -> Plan:
    """Work out a job's parameters, batches and data.

    Raises:
        ValueError: if a data set of a mixture has too small a weight.
    """
    parameters = count_parameters(job.model)
    trained_parts = list(job.recipe.trained_parts)
    training, scale, partitions = job.training, job.scale, job.data.partitions
    return Plan(
        job=job.model_dump(mode="json"),
        identity=job.identity,
        parameters=parameters,
        trained_parts=trained_parts,
        trained_parameters=sum(parameters[part] for part in trained_parts),
        batch=BatchArithmetic(
            global_batch=training.global_batch,
            workers=scale.most_workers,
            micro_batch=job.micro_batch,
            accumulation=job.accumulation,
            partitions=partitions,
            partitions_per_worker=partitions // scale.most_workers,
            images_per_partition=training.global_batch // partitions,
            regions_at_most=training.global_batch * job.data.regions_per_image,
            images_in_all=training.global_batch * training.max_steps,
        ),
        data=_data_shares(job),
    )


def _data_shares(job: JobConfig) -> list[DataShare]:
    sets = data_sets(job.data)
    slots = cycle_slots({str(each.folder): each.weight for each in sets})
    images = job.training.global_batch * job.training.max_steps
    return [_data_share(each, slots[str(each.folder)], images) for each in sets]


def _data_share(data_set: DataSet, slots: int, images: int) -> DataShare:
    samples = epochs = sha256 = None
    try:
        index = data_set.index("train")
        samples, sha256 = len(index), index.sha256
        epochs = images * slots / CYCLE / samples if samples else None
    except ValueError:
        pass
    return DataShare(
        folder=str(data_set.folder), slots=slots, samples=samples, epochs=epochs, sha256=sha256
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
        table.add_row(part, f"{count:,}", "yes" if part in plan.trained_parts else "no")
    table.add_section()
    table.add_row("in all", f"{sum(plan.parameters.values()):,}", f"{plan.trained_parameters:,}")
    console.print(table)
    console.print(_data_table(plan.data))
    console.print(_batch_sentence(plan.batch))


def _data_table(shares: Sequence[DataShare]) -> Table:
    table = Table(title="Data", title_justify="left")
    table.add_column("data set", overflow="fold")
    for column in ("share", "samples", "epochs"):
        table.add_column(column, justify="right")
    table.add_column("index sha256")
    for each in shares:
        share = f"{100 * each.slots / CYCLE:.4g}%" if each.slots < CYCLE else "all"
        if each.samples is None:
            table.add_row(each.folder, share, "not there yet")
        else:
            epochs = "" if each.epochs is None else f"{each.epochs:.3g}"
            table.add_row(each.folder, share, f"{each.samples:,}", epochs, (each.sha256 or "")[:16])
    return table


def _batch_sentence(batch: BatchArithmetic) -> str:
    return (
        f"\nA global batch of {batch.global_batch} images = {batch.workers} workers x"
        f" {batch.micro_batch} images x {batch.accumulation} micro-batches;\n"
        f"{batch.partitions} partitions give {batch.images_per_partition} images each, a worker"
        f" reads {batch.partitions_per_worker} of them;\n"
        f"at most {batch.regions_at_most:,} regions a step, {batch.images_in_all:,} images in all."
    )
