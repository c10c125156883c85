"""The work of `tap data priors`: a reader cuts crops shard by shard, a teacher embeds them.

Readers import this module, so torch and open_clip are imported where a teacher is loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.priors.crops import CropRule
from datamodules.priors.folder import keep
from datamodules.priors.shard import Teacher, embed_shard
from datamodules.shards.index import DataIndex
from datamodules.storage import Location

if TYPE_CHECKING:
    from tap_platform.concepts.image_teacher import TeacherShape


class TeacherSpec(NamedTuple):
    """What a teacher is loaded from."""

    model: str
    weights: str | None
    device: str
    """`cpu` or `cuda`."""
    precision: str
    """`fp32`, `fp16` or `bf16`."""


@dataclass(frozen=True)
class ShardJob:
    """A shard whose priors are missing."""

    split: str
    index: DataIndex
    shard: int

    @property
    def images(self) -> int:
        """Its samples."""
        return int(self.index.counts[self.shard])


class Drawing(NamedTuple):
    """What readers make, and where it goes."""

    root: Location
    rule: CropRule
    width: int
    """D: width of the embeddings."""
    batch: int


class Work(NamedTuple):
    """What teachers have done."""

    regions: int = 0
    images: int = 0
    busy: float = 0.0
    """Seconds spent on batches."""
    waiting: float = 0.0
    """Seconds between the end of a batch and the beginning of the next one."""
    teachers: int = 1

    @property
    def wait_share(self) -> float:
        """Share of the time that teachers waited for work, in [0, 1]."""
        return self.waiting / (self.busy + self.waiting) if self.busy else 0.0

    @property
    def seconds(self) -> float:
        """How long they have been at it, from the first batch to the end of the last one."""
        return (self.busy + self.waiting) / self.teachers

    @property
    def speed(self) -> str:
        """Throughput and the share of waiting, for people."""
        seconds = max(self.seconds, 1e-9)
        return (
            f"{self.regions / seconds:,.0f} regions/s  {self.images / seconds:,.1f} images/s "
            f" teachers wait {self.wait_share:.0%}"
        )

    @classmethod
    def total(cls, works: Sequence[Work]) -> Work:
        """The work of all."""
        return cls(*map(sum, zip(*works, strict=True)))


class WorkMeter:
    """Counts a teacher's work; one thread works, others may look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._work = Work()
        self._ended: float | None = None

    @contextmanager
    def batch(self, regions: int, images: int) -> Iterator[None]:
        """The time of the block is work, the time since the last block was waiting."""
        begun = time.perf_counter()
        yield
        ended = time.perf_counter()
        with self._lock:
            waited = 0.0 if self._ended is None else begun - self._ended
            past = self._work
            self._work = Work(
                past.regions + regions,
                past.images + images,
                past.busy + ended - begun,
                past.waiting + waited,
            )
            self._ended = ended

    def work(self) -> Work:
        """What was done so far."""
        with self._lock:
            return self._work


class TeacherServer:
    """A teacher with its meter: the whole state of an actor."""

    def __init__(self, spec: TeacherSpec, threads: int = 0) -> None:
        """Load the model.

        Args:
            spec: what from.
            threads: of one on CPUs; 0 leaves torch's own number.
        """
        import torch

        from tap_platform.concepts.image_teacher import ImageTeacher

        if threads:
            torch.set_num_threads(threads)
        self._teacher = ImageTeacher.load(*spec)
        self._meter = WorkMeter()

    def shape(self) -> TeacherShape:
        """What crops must look like, and the width of the answers."""
        return self._teacher.shape

    def embed(self, crops: NDArray[np.uint8], images: int) -> NDArray[np.float16]:
        """Embed a batch; see `Teacher`."""
        with self._meter.batch(len(crops), images):
            return self._teacher.embed(crops)

    def try_embed(self, crops: NDArray[np.uint8], images: int) -> NDArray[np.float16] | ValueError:
        """The same; a mistake is an answer too, for what Ray raises has lost its words."""
        try:
            return self.embed(crops, images)
        except ValueError as error:
            return error

    def work(self) -> Work:
        """What was done so far."""
        return self._meter.work()


@dataclass(frozen=True)
class _TeacherHere:
    """A teacher in this process: it answers when it is asked."""

    server: TeacherServer
    show: Callable[[Work], None]

    def ask(self, crops: NDArray[np.uint8], images: int) -> NDArray[np.float16]:
        rows = self.server.embed(crops, images)
        self.show(self.server.work())
        return rows

    def answer(self, ticket: NDArray[np.float16]) -> NDArray[np.float16]:
        return ticket


def do_shard(job: ShardJob, drawing: Drawing, teacher: Teacher[Any]) -> None:
    """Embed a shard and keep what comes of it."""
    done = embed_shard(job.index, job.shard, drawing.rule, teacher, drawing.width, drawing.batch)
    keep(drawing.root, job.split, job.index, job.shard, done)


def run_here(
    jobs: Sequence[ShardJob],
    spec: TeacherSpec,
    drawing_for: Callable[[TeacherShape], Drawing],
    show: Callable[[Work], None],
) -> Work:
    """Do all jobs in this process, one after another.

    Args:
        jobs: shards to do.
        spec: the teacher.
        drawing_for: what to make for such a teacher.
        show: told of the work as it goes on.
    """
    server = TeacherServer(spec)
    drawing = drawing_for(server.shape())
    for job in jobs:
        do_shard(job, drawing, _TeacherHere(server, show))
    return server.work()
