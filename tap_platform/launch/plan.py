"""What a job will do, before anything is scheduled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from datamodules.order.mixture import CYCLE, cycle_slots
from tap_platform.config.job import JobConfig
from tap_platform.estimate.sizes import as_bytes
from tap_platform.estimate.state import held_state
from tap_platform.launch.data_sets import DataSet, data_sets
from tap_platform.launch.parameters import count_parameters


class BatchArithmetic(BaseModel):
    """Who computes which part of a global batch."""

    global_batch: int
    workers: int
    micro_batch: int
    """Images in a forward pass of a worker, at the most."""
    accumulation: int
    partitions: int
    partitions_per_worker: int
    """At the most: where the workers do not divide the partitions, some read one fewer."""
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
    """With the most workers."""
    least_batch: BatchArithmetic | None
    """With the fewest workers of an elastic run."""
    data: list[DataShare]
    state: dict[str, int]
    """Bytes that one worker holds through a step, by part, with the most workers: no activations.
    `host` is what `scale.offload` moves to host memory."""


def make_plan(job: JobConfig) -> Plan:
    """Work out a job's parameters, batches and data.

    Raises:
        ValueError: if a data set of a mixture has too small a weight.
    """
    parameters = count_parameters(job.model)
    trained_parts = list(job.recipe.trained_parts)
    scale = job.scale
    return Plan(
        job=job.model_dump(mode="json"),
        identity=job.identity,
        parameters=parameters,
        trained_parts=trained_parts,
        trained_parameters=sum(parameters[part] for part in trained_parts),
        batch=_batch(job.on(scale.most_workers)),
        least_batch=(
            None
            if scale.least_workers == scale.most_workers
            else _batch(job.on(scale.least_workers))
        ),
        data=_data_shares(job),
        state=held_state(job)._asdict(),
    )


def _batch(job: JobConfig) -> BatchArithmetic:
    """The arithmetic of a job at one number of workers."""
    training, workers, partitions = job.training, job.scale.most_workers, job.data.partitions
    return BatchArithmetic(
        global_batch=training.global_batch,
        workers=workers,
        micro_batch=job.micro_batch,
        accumulation=job.accumulation,
        partitions=partitions,
        partitions_per_worker=ceil(partitions / workers),
        images_per_partition=training.global_batch // partitions,
        regions_at_most=training.global_batch * job.data.regions_per_image,
        images_in_all=training.global_batch * training.max_steps,
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
    console.print(_batch_sentence(plan.batch, plan.least_batch))
    console.print(_state_sentence(plan.state))


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


def _batch_sentence(batch: BatchArithmetic, least: BatchArithmetic | None) -> str:
    fewest = f"at the least {_cut(least)}, where a worker reads {_reads(least)};\n" if least else ""
    return (
        f"\nA global batch of {batch.global_batch} images = {_cut(batch)};\n"
        f"{batch.partitions} partitions give {batch.images_per_partition} images each, a worker"
        f" reads {_reads(batch)};\n{fewest}"
        f"at most {batch.regions_at_most:,} regions a step, {batch.images_in_all:,} images in all."
    )


def _state_sentence(state: Mapping[str, int]) -> str:
    """What is held whatever the batch; `--on` tells the rest."""
    names = {"average": "moving average", "host": "offloaded state in host memory"}
    parts = [f"{as_bytes(size)} of {names.get(part, part)}" for part, size in state.items() if size]
    return f"A worker holds {', '.join(parts)}, beside activations."


def _cut(batch: BatchArithmetic) -> str:
    """How a global batch is cut; the smaller parts are not told where parts are uneven."""
    computed = batch.workers * batch.micro_batch * batch.accumulation
    bound = "" if computed == batch.global_batch else "at most "
    return (
        f"{batch.workers} workers x {bound}{batch.micro_batch} images x"
        f" {batch.accumulation} micro-batches"
    )


def _reads(batch: BatchArithmetic) -> str:
    most, uneven = batch.partitions_per_worker, batch.partitions % batch.workers
    return f"{most - 1} or {most} of them" if uneven else f"{most} of them"
