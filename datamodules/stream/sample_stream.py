"""From raw samples in order to batches in order: decoded by threads, bad ones left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING

from datamodules.decoding.decode import DecodedSample, Frame, blank_sample
from datamodules.order.held_out import evaluation_samples
from datamodules.order.plan import Plan, PlannedSample, Position
from datamodules.order.shares import even_parts
from datamodules.shards.index import SampleIndex
from datamodules.stream.decoder import Decoder
from datamodules.stream.reading import SeededSample, read_here
from datamodules.stream.slots import DecodedGroup, StepTotals

if TYPE_CHECKING:
    from datamodules.stream.batch import RegionBatch


class TrainingStream:
    """The micro-batches of one rank from a step on, until the last step.

    A bad sample leaves its batch smaller. A batch of bad ones only holds one picture without
    regions, so that every rank takes equally many steps: the first good one of the step, or else
    a blank frame; what it is depends on the step alone, not on where the run was resumed. The same
    stands in for a micro-batch that a rank with fewer partitions than others has no sample for.

    The loss needs the number of regions in the whole step, and of those with phrases, and that is
    known only when the last of its samples is decoded, for a sample may turn out bad. So a rank
    holds a step decoded, 3 S^2 bytes of pixels and R^2 bytes of each mask for each of its images:
    7 MB at S = 1024, R = 256 and 64 regions.
    """

    def __init__(
        self,
        index: SampleIndex,
        plan: Plan,
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
        self.sizes = plan.micro_batch_sizes(rank, world_size, accumulation)
        """Samples of each micro-batch of a step."""

    def __iter__(self) -> Iterator[RegionBatch]:
        """Read, decode and collate; torch is imported with the first batch."""
        decoded = self.decoder.groups(self._samples(), self.sizes, len(self.steps))
        with closing(decoded) as groups:
            for step in self.steps:
                yield from self._micro_batches(step, list(islice(groups, len(self.sizes))))

    def _micro_batches(self, step: int, groups: list[DecodedGroup]) -> Iterator[RegionBatch]:
        """One step, decoded as a whole: each micro-batch tells the totals of all of them."""
        from datamodules.stream.batch import collate_group

        totals = StepTotals.of(groups)
        stand_in = _stand_in(groups, self.decoder.frame)
        while groups:
            group = groups.pop(0)
            position = self.plan.position(step if groups else step + 1)
            yield collate_group(group, position, stand_in, totals)

    def _samples(self) -> Iterator[SeededSample]:
        config = self.decoder.config
        planned = chain.from_iterable(self._tasks())
        if not config.reader_tasks:
            return read_here(self.index, planned)
        from datamodules.stream.ray_reading import ReadWork, read_with_ray

        work = ReadWork(self.index, self.decoder.samples if config.decode == "ray" else None)
        return read_with_ray(work, planned, config.reader_tasks)

    def _tasks(self) -> Iterator[tuple[PlannedSample, ...]]:
        """The samples of each read task, in the plan's order, up to the last step."""
        start = self.plan.position(self.steps.start)
        left = len(self.steps)
        for task in self.plan.read_tasks(self.rank, self.world_size, start):
            if left <= 0:
                return
            wanted = min(task.stop - task.start, left)
            left -= wanted
            yield task.samples[: wanted * sum(self.sizes)]


def _stand_in(groups: Sequence[DecodedGroup], frame: Frame) -> DecodedSample | None:
    """What a batch of bad samples only holds; None where there is no such batch."""
    if all(group.good for group in groups):
        return None
    good = next(chain.from_iterable(group.good for group in groups), None)
    if good is None:
        return blank_sample(frame)
    return replace(
        good,
        key="",
        pixels=good.pixels.copy(),
        masks=good.masks[:0],
        has_mask=good.has_mask[:0],
        boxes=good.boxes[:0],
        priors=good.priors[:0],
        has_prior=good.has_prior[:0],
        concepts=good.concepts[:0],
        phrases=[],
        dropped_regions=0,
        dropped_phrases=0,
    )


class EvaluationStream:
    """Held-out samples in order, without jitter, a share for each rank."""

    def __init__(
        self,
        index: SampleIndex,
        decoder: Decoder,
        *,
        batch: int,
        images: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Prepare to read.

        Args:
            index: the held-out samples.
            decoder: a decoder with `training=False`.
            batch: images in a batch.
            images: images in all, over all ranks, spread evenly; None takes every one. They are the
                same for any number of ranks.
            rank: number of the worker.
            world_size: number of workers; all have equally many batches, one of which may hold no
                image but a blank one without regions.
        """
        self.index = index
        self.decoder = decoder
        self.rank = rank
        self.world_size = world_size
        self.images = len(self.index) if images is None else min(images, len(self.index))
        """Images of all ranks."""
        batches = math.ceil(self.images / (batch * world_size))
        own = len(range(rank, self.images, world_size))
        self.sizes = even_parts(own, batches) if batches else []
        """Images of each batch of this rank."""

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.sizes)

    def __iter__(self) -> Iterator[RegionBatch]:
        """Read in this process, decode and collate."""
        from datamodules.stream.batch import collate_group

        planned = evaluation_samples(
            self.index.counts,
            self.rank,
            self.world_size,
            self.decoder.config.seed,
            self.images,
        )
        samples = read_here(self.index, planned)
        with closing(self.decoder.groups(samples, self.sizes)) as groups:
            for group in groups:
                yield collate_group(group, Position(), _stand_in([group], self.decoder.frame))
