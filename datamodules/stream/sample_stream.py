"""From raw samples in order to batches in order: decoded by threads, bad ones left out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.decoding.decode import (
    BadSampleError,
    DecodedSample,
    Frame,
    blank_sample,
    decode_sample,
)
from datamodules.order.plan import GlobalPlan, PlannedSample, Position, evaluation_samples
from datamodules.shards.index import DataIndex
from datamodules.shards.records import BadSample
from datamodules.stream.quarantine import Quarantine
from datamodules.stream.reading import SeededSample, read_here, read_with_ray
from tap_platform.config.data import StreamConfig

if TYPE_CHECKING:
    from datamodules.stream.batch import RegionBatch


class Decoder:
    """Decodes samples in threads, in order, and keeps count of the bad ones."""

    def __init__(
        self,
        config: StreamConfig,
        frame: Frame,
        concepts: dict[str, int],
        quarantine: Quarantine,
        *,
        training: bool,
    ) -> None:
        self.config = config
        self.frame = frame
        self.concepts = concepts
        self.quarantine = quarantine
        self.training = training

    def groups(
        self, samples: Iterable[SeededSample], size: int
    ) -> Iterator[list[DecodedSample | None]]:
        """Decode in groups of `size` samples; None stands for a bad one."""
        ahead: deque[Future[DecodedSample | None]] = deque()
        threads = self.config.decode_threads
        with ThreadPoolExecutor(threads, "decode") as pool:
            group: list[DecodedSample | None] = []
            for seeded in chain(samples, [None] * (size + threads)):
                if seeded is not None:
                    ahead.append(pool.submit(self._decode, seeded))
                if seeded is None or len(ahead) > size + threads:
                    if not ahead:
                        break
                    group.append(ahead.popleft().result())
                if len(group) == size:
                    yield group
                    group = []
            if group:
                yield group

    def _decode(self, seeded: SeededSample) -> DecodedSample | None:
        sample = seeded.sample
        if isinstance(sample, BadSample):
            self.quarantine.bad(sample)
            return None
        try:
            decoded = decode_sample(
                sample,
                seeded.seed,
                self.config,
                self.frame,
                self.concepts,
                training=self.training,
            )
        except BadSampleError as error:
            self.quarantine.bad(BadSample(sample.shard, sample.key, str(error)))
            return None
        self.quarantine.good(decoded.dropped_regions)
        return decoded


class TrainingStream:
    """The micro-batches of one rank from a step on, until the last step.

    A bad sample leaves its batch smaller; a batch of bad ones only is a blank frame without weight,
    so that every rank takes equally many steps.
    """

    def __init__(
        self,
        index: DataIndex,
        plan: GlobalPlan,
        decoder: Decoder,
        *,
        rank: int,
        world_size: int,
        accumulation: int,
        steps: range,
    ) -> None:
        """Prepare to read `steps`, the numbers of optimizer steps since the start of the run."""
        self.index = index
        self.plan = plan
        self.decoder = decoder
        self.rank = rank
        self.world_size = world_size
        self.steps = steps
        self.micro_batch = plan.micro_batch_size(world_size, accumulation)
        self.accumulation = accumulation

    def __iter__(self) -> Iterator[RegionBatch]:
        """Read, decode and collate; torch is imported with the first batch."""
        groups = self.decoder.groups(self._raw(), self.micro_batch)
        for step in self.steps:
            yield from self._micro_batches(step, list(islice(groups, self.accumulation)))

    def _micro_batches(
        self, step: int, groups: list[list[DecodedSample | None]]
    ) -> Iterator[RegionBatch]:
        """One step, decoded as a whole: each micro-batch tells the regions of all of them."""
        from datamodules.stream.batch import collate

        good = [[sample for sample in group if sample is not None] for group in groups]
        regions = sum(len(sample.masks) for sample in chain.from_iterable(good))
        for number, samples in enumerate(good, start=1):
            position = self.plan.position(step + number // self.accumulation)
            blank = blank_sample(self.decoder.frame)
            yield collate(samples or [blank], position, step_regions=regions)

    def _raw(self) -> Iterator[SeededSample]:
        reader_tasks = self.decoder.config.reader_tasks
        if not reader_tasks:
            return read_here(self.index, chain.from_iterable(self._tasks()))
        return read_with_ray(self.index, self._tasks(), reader_tasks)

    def _tasks(self) -> Iterator[tuple[PlannedSample, ...]]:
        """The samples of each read task, in the plan's order, up to the last step."""
        start = self.plan.position(self.steps.start)
        left = len(self.steps)
        for task in self.plan.read_tasks(self.rank, self.world_size, start):
            if left <= 0:
                return
            wanted = min(task.stop - task.start, left)
            left -= wanted
            yield task.samples[: wanted * self.micro_batch * self.accumulation]


class EvaluationStream:
    """Held-out samples in order, without jitter, a share for each rank."""

    def __init__(
        self,
        folder: Path,
        decoder: Decoder,
        *,
        batch: int,
        images: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Prepare to read.

        Args:
            folder: folder of the held-out shards.
            decoder: a decoder with `training=False`.
            batch: images in a batch.
            images: images in all, over all ranks; None takes every one. Where there are several
                ranks it is cut to a multiple of their number, so that they take equally many.
            rank: number of the worker.
            world_size: number of workers.
        """
        self.index = DataIndex.load(folder)
        self.decoder = decoder
        self.batch = batch
        self.rank = rank
        self.world_size = world_size
        total = len(self.index) if images is None else min(images, len(self.index))
        self.images = total // world_size

    def __len__(self) -> int:
        """Batches of this rank."""
        return math.ceil(self.images / self.batch)

    def __iter__(self) -> Iterator[RegionBatch]:
        """Read in this process, decode and collate."""
        from datamodules.stream.batch import collate

        planned = evaluation_samples(
            np.asarray(self.index.counts), self.rank, self.world_size, self.decoder.config.seed
        )
        chosen = (sample for sample, _ in zip(planned, range(self.images), strict=False))
        for group in self.decoder.groups(read_here(self.index, chosen), self.batch):
            good = [sample for sample in group if sample is not None]
            yield collate(good or [blank_sample(self.decoder.frame)], Position())
