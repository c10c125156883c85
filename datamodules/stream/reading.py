"""Raw samples in the plan's order: read by this process, or by Ray Data tasks on any node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from datamodules.order.plan import PlannedSample
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import BadSample, RawSample

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.data.datasource import Datasource

SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("image", pa.large_binary()),
        ("annotation", pa.large_binary()),
        ("priors", pa.large_binary()),
        ("reason", pa.string()),
    ]
)
"""A row of the stream: a sample as it lies in its shard, or the reason why it cannot be read."""


class SeededSample(NamedTuple):
    """A raw sample with the seed of its draws."""

    seed: int
    sample: RawSample | BadSample


def read_here(index: DataIndex, samples: Iterable[PlannedSample]) -> Iterator[SeededSample]:
    """Read samples in this process."""
    with ShardReader(index) as reader:
        for planned in samples:
            yield SeededSample(planned.seed, reader.read(planned.shard, planned.number))


def read_with_ray(
    index: DataIndex, tasks: Iterable[Sequence[PlannedSample]], reader_tasks: int
) -> Iterator[SeededSample]:
    """Read the samples of each task in a Ray Data task; the order of tasks and rows is kept.

    Args:
        index: index of the folder, readable on every node.
        tasks: the samples that one Ray Data task reads, in the plan's order.
        reader_tasks: tasks at work at once, one CPU each.
    """
    for table in _dataset(index, tasks, reader_tasks).iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=2
    ):
        yield from _rows(table)


def _dataset(
    index: DataIndex, tasks: Iterable[Sequence[PlannedSample]], reader_tasks: int
) -> Dataset:
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        cpu=float(reader_tasks)
    )
    with ray.data.DataContext.current(context):
        return ray.data.read_datasource(_plan_source(index, tasks))


def _plan_source(index: DataIndex, tasks: Iterable[Sequence[PlannedSample]]) -> Datasource:
    """A Ray Data source with one read task for each task of the plan."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    planned = list(tasks)

    class PlanSource(Datasource):
        def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
            return [
                ReadTask(
                    partial(_read_tables, index, samples),
                    BlockMetadata(len(samples), None, None, None),
                    SCHEMA,
                )
                for samples in planned
            ]

        def estimate_inmemory_data_size(self) -> int | None:
            return None

    return PlanSource()


def _read_tables(index: DataIndex, samples: Sequence[PlannedSample]) -> Iterator[pa.Table]:
    """One table for one task: large blocks keep Ray's cost per block low."""
    rows = [_row(seeded) for seeded in read_here(index, samples)]
    yield pa.Table.from_pylist(rows, SCHEMA)


def _row(seeded: SeededSample) -> dict[str, Any]:
    sample = seeded.sample
    row = {"seed": seeded.seed, "shard": sample.shard, "key": sample.key}
    if isinstance(sample, BadSample):
        return row | {"reason": sample.reason}
    return row | {
        "image": sample.image,
        "annotation": sample.annotation,
        "priors": sample.priors,
    }


def _rows(table: pa.Table) -> Iterator[SeededSample]:
    for row in table.to_pylist():
        if row["reason"] is not None:
            yield SeededSample(row["seed"], BadSample(row["shard"], row["key"], row["reason"]))
        else:
            yield SeededSample(
                row["seed"],
                RawSample(row["shard"], row["key"], row["image"], row["annotation"], row["priors"]),
            )
