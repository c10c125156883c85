"""Samples in the plan's order, read by Ray Data tasks on any node, which may decode them too.

A block of Ray Data holds the samples of one task, tens of megabytes, so that what Ray does for a
block costs little for a sample; and it is read from the object store where it lies. The stream is
endless, but Ray Data wants to know every task of a data set at once: it is made of sections, each a
data set of its own, and the next one starts before the last blocks of the one before are taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext, Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from datamodules.order.plan import PlannedSample
from datamodules.shards.index import SampleIndex
from datamodules.shards.records import BadSample
from datamodules.stream.blocks import decode_block, encode_block
from datamodules.stream.decoder import SampleDecoder
from datamodules.stream.ordered import in_groups
from datamodules.stream.packing import PackedSample, pack
from datamodules.stream.prefetch import Prefetch
from datamodules.stream.reading import SeededSample, read_here
from datamodules.stream.slots import Slots

SAMPLES_PER_TASK = 64
"""Encoded samples in a block, 40 MB of SA-1B's."""
BLOCK_BYTES = 64 << 20
"""A block of decoded samples is no larger, if it holds more than one."""
TASKS_PER_SECTION = 256
"""Starting a section takes a second of CPU time, and a kilobyte of memory a sample."""
BLOCKS_AHEAD = 2
"""Blocks of a worker that wait in the object store, beside those that its tasks make."""
LOOP_SECONDS = 0.05
"""How long Ray Data's scheduling loop rests after each round."""


@dataclass(frozen=True)
class ReadWork:
    """What every read task of a stream does with its samples."""

    index: SampleIndex
    """Where the samples lie, readable on every node."""
    decoder: SampleDecoder | None
    """Decodes them in the task; None ships them encoded."""

    @property
    def samples_per_task(self) -> int:
        """Samples in a block."""
        if self.decoder is None:
            return SAMPLES_PER_TASK
        frame, regions = self.decoder.frame, self.decoder.config.regions_per_image
        mask_bytes = frame.mask_size**2 // 8
        size = 3 * frame.size**2 + regions * (mask_bytes + 2 * frame.concept_dim)
        return min(SAMPLES_PER_TASK, max(1, BLOCK_BYTES // size))

    def read(self, samples: Sequence[PlannedSample]) -> Iterator[SeededSample]:
        """Read the samples of a task, and decode them where that is asked for."""
        raw = read_here(self.index, samples)
        return raw if self.decoder is None else _packed(raw, self.decoder)


def _packed(samples: Iterator[SeededSample], decoder: SampleDecoder) -> Iterator[SeededSample]:
    """Decode and pack samples, one after another in the same slot."""
    slots = Slots.make(1, decoder.frame, decoder.config.regions_per_image)
    for seed, sample in samples:
        decoded = decoder.decode(SeededSample(seed, sample), slots.pixels[0], slots.masks[0])
        if isinstance(decoded, BadSample):
            yield SeededSample(seed, decoded)
        else:
            packed = PackedSample(sample.shard, decoded.key, pack(decoded))
            yield SeededSample(seed, packed)


def read_with_ray(
    work: ReadWork, samples: Iterable[PlannedSample], reader_tasks: int
) -> Iterator[SeededSample]:
    """Read samples in Ray Data tasks; their order is kept.

    Args:
        work: what a task does.
        samples: the plan's samples; they may go on without end.
        reader_tasks: tasks at work at once, one CPU each.
    """
    shared = ray.put(work)
    tasks = in_groups(samples, work.samples_per_task)
    sections = in_groups(tasks, TASKS_PER_SECTION)
    for table in _tables(shared, sections, reader_tasks):
        yield from decode_block(table)


def _tables(
    work: ray.ObjectRef[ReadWork],
    sections: Iterator[list[list[PlannedSample]]],
    reader_tasks: int,
) -> Iterator[pa.Table]:
    """The blocks of all sections; the next section starts when the last task's rows are due."""

    def start() -> tuple[Prefetch[pa.Table], int] | None:
        section = next(sections, None)
        if section is None:
            return None
        blocks = _blocks(_dataset(work, section, reader_tasks))
        return Prefetch(blocks, depth=1), sum(map(len, section))

    current, following = start(), None
    try:
        while current is not None:
            blocks, left = current
            for table in blocks:
                left -= len(table)
                if following is None and left <= BLOCKS_AHEAD * len(table):
                    following = start()
                yield table
            current, following = following, None
    finally:
        for each in (current, following):
            if each is not None:
                each[0].close()


def _blocks(dataset: Dataset) -> Iterator[pa.Table]:
    """The blocks of a data set, where they lie in the object store."""
    for bundle in dataset.iter_internal_ref_bundles():
        yield from map(ray.get, bundle.block_refs)


def _dataset(
    work: ray.ObjectRef[ReadWork], section: Sequence[Sequence[PlannedSample]], reader_tasks: int
) -> Dataset:
    source = _PlanSource(work, section)
    with DataContext.current(_context(reader_tasks)):
        # Were fewer blocks told than Ray Data holds for good, it would cut each in pieces.
        return ray.data.read_datasource(source, override_num_blocks=len(section))


def _context(reader_tasks: int) -> DataContext:
    """Ray Data's settings: the order is kept, and the object store is not filled up."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    context.memory_usage_poll_interval_s = None
    context.custom_execution_callback_classes = [_Unhurried]
    options = context.execution_options
    options.preserve_order = True
    options.verbose_progress = False
    options.resource_limits = options.resource_limits.copy(
        cpu=float(reader_tasks),
        object_store_memory=float((2 * reader_tasks + BLOCKS_AHEAD) * BLOCK_BYTES),
    )
    return context


class _Unhurried(ExecutionCallback):
    """Lets the scheduling loop rest.

    While its blocks wait to be taken, the loop would go round at full speed, in the training
    process: half a core, and Python's lock.
    """

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(LOOP_SECONDS)


class _PlanSource(Datasource):
    """A Ray Data source with one read task for each task of a section."""

    def __init__(
        self, work: ray.ObjectRef[ReadWork], section: Sequence[Sequence[PlannedSample]]
    ) -> None:
        super().__init__()
        self._work = work
        self._section = section

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [
            ReadTask(
                partial(_read, self._work, samples), BlockMetadata(len(samples), None, None, None)
            )
            for samples in self._section
        ]

    def estimate_inmemory_data_size(self) -> int | None:
        return None


def _read(work: ray.ObjectRef[ReadWork], samples: Sequence[PlannedSample]) -> Iterator[pa.Table]:
    yield encode_block(list(_work(work).read(samples)))


@lru_cache(maxsize=2)
def _work(work: ray.ObjectRef[ReadWork]) -> ReadWork:
    """Kept from task to task: an index takes time to open."""
    return ray.get(work)
