"""The ways to read samples that the data benchmark compares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from machine import cpu_seconds
from sa1b_like import HEIGHT, WIDTH
from torch.utils.data import DataLoader
from usual_way import Batch, usual_loader

from datamodules.decoding.decode import Frame, draw_placement
from datamodules.decoding.pictures import decode_picture
from datamodules.decoding.resample import resample
from datamodules.order.draws import sample_seed
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import RawSample
from datamodules.stream.prefetch import Prefetch
from tap_platform.config.data import ScaleJitterConfig
from tap_platform.config.job import JobConfig
from tap_platform.config.model import PresetName, TapConfig
from tap_platform.launch.ray_session import ray_session
from tap_platform.launch.worker_entry import Place, build_streams
from tap_platform.runs.events import EventLog

GEOMETRIES = {
    "evaluation": ScaleJitterConfig(minimum=1.0, maximum=1.0),
    "training": ScaleJitterConfig(),
}
PRESET: PresetName = "vit_b"
BATCH = 4
REGIONS = 64
USUAL_WORKERS = 2
"""As many as the threads that decode for our stream."""


@dataclass(frozen=True)
class Way:
    """One way to read samples."""

    samples: int
    """Samples of one pass."""
    read: Callable[[], None]
    """Makes one pass."""
    helpers: tuple[psutil.Process, ...] = ()
    """Processes that take part, beside this one, with their descendants."""

    def measure(self) -> float:
        """CPU milliseconds that a sample of one pass costs."""
        before = cpu_seconds(self.helpers)
        self.read()
        return 1000 * (cpu_seconds(self.helpers) - before) / self.samples


def warmed(way: Way) -> Way:
    """The way after a first pass, with the processes that this pass has started."""
    with _new_children() as children:
        way.read()
    return Way(way.samples, way.read, way.helpers + tuple(children))


@contextmanager
def _new_children() -> Iterator[list[psutil.Process]]:
    """Children that this process has at the end of the block and had not at its start."""
    before = set(psutil.Process().children())
    children: list[psutil.Process] = []
    yield children
    children.extend(set(psutil.Process().children()) - before)


def usual_way(folder: Path, geometry: str, samples: int) -> Way:
    """Webdataset and torch's DataLoader."""
    loader = usual_loader(
        folder / "train",
        Frame.of(TapConfig.preset(PRESET)),
        GEOMETRIES[geometry],
        regions=REGIONS,
        batch=BATCH,
        samples=samples,
        workers=USUAL_WORKERS,
    )
    return Way(samples, partial(_read_usual, loader))


def stream_local_way(folder: Path, geometry: str, samples: int) -> Way:
    """Our stream, read by the worker itself."""
    return Way(samples, partial(_read_stream, _job(folder, geometry, samples, reader_tasks=0)))


def decoder_way(folder: Path, geometry: str, samples: int, *, resize: bool) -> Way:
    """The JPEG decoder alone, or with the resize."""
    read = partial(_read_jpegs, list(_images(folder)), geometry, samples, resize=resize)
    return Way(samples, read)


@contextmanager
def stream_ways(folder: Path, geometries: Iterable[str], samples: int) -> Iterator[dict[str, Way]]:
    """Our stream through Ray Data in each geometry, while Ray runs."""
    jobs = {name: _job(folder, name, samples, reader_tasks=1) for name in geometries}
    before = set(psutil.Process().children())
    with ray_session(next(iter(jobs.values()))):
        ray_processes = tuple(set(psutil.Process().children()) - before)
        yield {
            name: Way(samples, partial(_read_stream, job), ray_processes)
            for name, job in jobs.items()
        }


def _job(folder: Path, geometry: str, samples: int, reader_tasks: int) -> JobConfig:
    """A job of one worker whose stream ends after `samples` samples."""
    return JobConfig.model_validate(
        {
            "name": "benchmark",
            "model": {"preset": PRESET},
            "data": {
                "source": "shards",
                "path": str(folder),
                "partitions": BATCH,
                "regions_per_image": REGIONS,
                "reader_tasks": reader_tasks,
                "decode_threads": USUAL_WORKERS,
                "jitter": GEOMETRIES[geometry],
            },
            "training": {"global_batch": BATCH, "max_steps": samples // BATCH},
        }
    )


def _read_stream(job: JobConfig) -> None:
    """Take all batches of our stream, as a training worker does."""
    events = EventLog(Path(job.data.path) / "events.jsonl", attempt=1, rank=0)
    stream, _ = build_streams(job, Place(rank=0, world_size=1, start_step=0), events)
    with closing(Prefetch(stream, depth=2)) as batches:
        taken = sum(len(batch.keys) for batch in batches)
    assert taken == job.training.max_steps * BATCH, "a sample was quarantined"


def _read_usual(loader: DataLoader[Batch]) -> None:
    for _ in loader:
        pass


def _images(folder: Path) -> Iterator[bytes]:
    index = DataIndex.load(folder / "train")
    with ShardReader(index) as reader:
        for shard, count in enumerate(index.counts):
            for number in range(count):
                sample = reader.read(shard, number)
                assert isinstance(sample, RawSample)
                yield sample.image


def _read_jpegs(images: Sequence[bytes], geometry: str, samples: int, *, resize: bool) -> None:
    """Decode the pictures at the placements that the stream draws, and resize them."""
    frame = np.empty((1024, 1024, 3), np.uint8)
    for number in range(samples):
        epoch, position = divmod(number, len(images))
        seed = sample_seed(0, epoch, position)
        place = draw_placement(HEIGHT, WIDTH, len(frame), GEOMETRIES[geometry], seed)
        needed = place.height, place.width
        picture = decode_picture(images[position], (HEIGHT, WIDTH), needed=needed)
        if resize:
            high, wide = place.visible(len(frame))
            across, down = (place.left, place.left + wide), (place.top, place.top + high)
            left, right = (x / place.width for x in across)
            top, bottom = (y / place.height for y in down)
            resample(picture, (left, top, right, bottom), (high, wide), frame)
