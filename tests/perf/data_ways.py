"""The ways to read samples that the data benchmark compares: each is an iterator of batches.

All give batches of four samples for a ViT-B: a frame of 1024 x 1024, masks of 64 regions in 256 x
256 cells, and their priors, in the geometry of evaluation (long side 1024) or of training (long
side 512 to 2048, then a crop of the frame).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import psutil
import webdataset
from machine import cpu_seconds
from sa1b_like import HEIGHT, SAMPLES_PER_SHARD, WIDTH
from torch.utils.data import DataLoader
from usual_way import usual_loader

from datamodules.decoding.decode import DecodedSample, Frame, decode_sample
from datamodules.decoding.pictures import decode_picture
from datamodules.decoding.placement import draw_placement
from datamodules.decoding.resample import resample
from datamodules.order.draws import sample_seed
from datamodules.order.plan import Position
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import RawSample
from datamodules.stream.batch import RegionBatch, collate
from datamodules.stream.prefetch import Prefetch
from datamodules.vocabulary import Vocabulary
from tap_platform.config.data import ShardSource
from tap_platform.config.job import JobConfig
from tap_platform.config.model import PresetName, TapConfig
from tap_platform.config.stream import ScaleJitterConfig
from tap_platform.launch.worker_entry import Place, build_streams
from tap_platform.runs.events import EventLog

GEOMETRIES = {
    "evaluation": ScaleJitterConfig(minimum=1.0, maximum=1.0),
    "training": ScaleJitterConfig(),
}
PRESET: PresetName = "vit_b"
BATCH = 4
REGIONS = 64
WORKERS = 2
"""Processes of a DataLoader, and threads that decode for our stream."""


@dataclass(frozen=True)
class Reading:
    """What a way reads."""

    folder: Path
    geometry: str
    samples: int
    """At least so many are there to be read, over and over the same pictures."""

    @property
    def frame(self) -> Frame:
        """The model's shapes."""
        return Frame.of(TapConfig.preset(PRESET))

    @property
    def jitter(self) -> ScaleJitterConfig:
        """Range of the scale."""
        return GEOMETRIES[self.geometry]

    @property
    def shards(self) -> list[str]:
        """Paths of the tars."""
        return sorted(str(path) for path in (self.folder / "train").glob("*.tar"))


Batches = Generator[int]
"""Sizes of the batches that a way has made."""


def usual(reading: Reading) -> Batches:
    """Webdataset and torch's DataLoader, with Pillow, pycocotools and a resize of every mask."""
    loader = usual_loader(
        reading.folder / "train",
        reading.frame,
        reading.jitter,
        regions=REGIONS,
        batch=BATCH,
        samples=reading.samples,
        workers=WORKERS,
    )
    for pixels, *_ in loader:
        yield len(pixels)


class OurDecoder:
    """Our decoder as a function of a sample of other readers: a dictionary of members."""

    def __init__(self, reading: Reading) -> None:
        self.frame = reading.frame
        self.source = ShardSource(path="", regions_per_image=REGIONS, jitter=reading.jitter)
        self.concepts = Vocabulary.load(reading.folder / "vocabulary.safetensors").indexes

    def __call__(self, members: Mapping[str, Any]) -> DecodedSample:
        """Decode; the crop is drawn by the key."""
        key = members["__key__"]
        raw = RawSample("", key, members["jpg"], members["json"], members["priors.npy"])
        seed = crc32(key.encode())
        return decode_sample(raw, seed, self.source, self.frame, self.concepts, training=True)

    def columns(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """What `read_webdataset` maps a sample to."""
        sample = self(members)
        return {
            "pixels": sample.pixels,
            "masks": sample.masks.view(np.uint8),
            "boxes": sample.boxes,
            "priors": sample.priors,
            "concepts": sample.concepts,
        }


def _join(samples: list[DecodedSample]) -> RegionBatch:
    return collate(samples, Position())


def with_webdataset(reading: Reading) -> Batches:
    """Webdataset and torch's DataLoader, with our decoder; batches are joined in the workers."""
    dataset = (
        webdataset.WebDataset(reading.shards, shardshuffle=False, nodesplitter=None)
        .map(OurDecoder(reading))
        .repeat()
        .with_epoch(reading.samples // WORKERS)
    )
    for batch in DataLoader(dataset, BATCH, collate_fn=_join, num_workers=WORKERS):
        yield len(batch.keys)


def with_read_webdataset(reading: Reading) -> Batches:
    """Ray Data's own reader of such shards, and its `map` with our decoder."""
    import ray.data

    passes = reading.samples // (SAMPLES_PER_SHARD * len(reading.shards)) + 1
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # `decoder=None` leaves the members as they are: its own would take Pillow's time.
    dataset = ray.data.read_webdataset(passes * reading.shards, decoder=None)
    for batch in dataset.map(OurDecoder(reading).columns).iter_batches(
        batch_size=BATCH, batch_format="numpy", prefetch_batches=2
    ):
        np.concatenate(list(batch["masks"]))
        np.concatenate(list(batch["priors"]))
        yield len(np.ascontiguousarray(batch["pixels"]))


def _stream(
    reading: Reading, reader_tasks: int, decode: Literal["consumer", "ray"] = "consumer"
) -> Batches:
    """All batches of our stream, as a training worker takes them."""
    job = JobConfig.model_validate(
        {
            "name": "benchmark",
            "model": {"preset": PRESET},
            "data": {
                "source": "shards",
                "path": str(reading.folder),
                "partitions": BATCH,
                "regions_per_image": REGIONS,
                "reader_tasks": reader_tasks,
                "decode": decode,
                "decode_threads": WORKERS,
                "jitter": reading.jitter,
            },
            "training": {"global_batch": BATCH, "max_steps": reading.samples // BATCH},
            "evaluation": {"every_steps": None},
        }
    )
    events = EventLog(reading.folder / "events.jsonl", attempt=1, rank=0)
    stream, _ = build_streams(job, Place(rank=0, world_size=1, start_step=0), events)
    with closing(Prefetch(stream, depth=2)) as batches:
        for batch in batches:
            assert len(batch.keys) == BATCH, "a sample was quarantined"
            yield len(batch.keys)


def stream(reading: Reading) -> Batches:
    """Our stream through Ray Data; threads of this process decode."""
    return _stream(reading, reader_tasks=1)


def stream_ray(reading: Reading) -> Batches:
    """Our stream, decoded by Ray Data's tasks."""
    return _stream(reading, reader_tasks=WORKERS, decode="ray")


def stream_local(reading: Reading) -> Batches:
    """Our stream without Ray: this process reads for itself."""
    return _stream(reading, reader_tasks=0)


def limit(reading: Reading) -> Batches:
    """The JPEG decoder, at a fraction of the size where allowed, and the resize; no more."""
    return _decode_jpegs(reading, resize=True)


def jpeg(reading: Reading) -> Batches:
    """The JPEG decoder alone."""
    return _decode_jpegs(reading, resize=False)


def _decode_jpegs(reading: Reading, *, resize: bool) -> Batches:
    """Decode the pictures at the placements that the stream draws."""
    images = list(_images(reading.folder))
    side = reading.frame.size
    frame = np.empty((side, side, 3), np.uint8)
    for number in range(reading.samples):
        epoch, position = divmod(number, len(images))
        seed = sample_seed(0, epoch, position)
        place = draw_placement(HEIGHT, WIDTH, side, reading.jitter, seed)
        needed = place.height, place.width
        picture = decode_picture(images[position], (HEIGHT, WIDTH), needed=needed)
        if resize:
            high, wide = place.visible(side)
            across, down = (place.left, place.left + wide), (place.top, place.top + high)
            left, right = (x / place.width for x in across)
            top, bottom = (y / place.height for y in down)
            resample(picture, (left, top, right, bottom), (high, wide), frame)
        yield 1


def _images(folder: Path) -> Iterator[bytes]:
    index = DataIndex.load(folder / "train")
    for shard, samples in enumerate(index.counts.tolist()):
        for sample in read_samples(index, shard, range(samples)):
            assert isinstance(sample, RawSample)
            yield sample.image


WAYS: dict[str, Callable[[Reading], Batches]] = {
    "usual": usual,
    "webdataset": with_webdataset,
    "read_webdataset": with_read_webdataset,
    "stream": stream,
    "stream_ray": stream_ray,
    "stream_local": stream_local,
    "limit": limit,
    "jpeg": jpeg,
}
HOSTS: dict[str, Sequence[str]] = {
    "loader": ("usual", "webdataset"),
    "ray": ("read_webdataset", "stream", "stream_ray"),
    "plain": ("stream_local", "limit", "jpeg"),
}
"""The ways that share a process: what one leaves running must not be counted with another."""


def measure(way: str, reading: Reading, warm: int, ahead: int) -> float:
    """CPU milliseconds a sample, of this process and all that it has started.

    Args:
        way: one of `WAYS`.
        reading: what it reads.
        warm: samples before the clock starts: until everything flows.
        ahead: samples after it stops: so that there still is something to read ahead.
    """
    batches = WAYS[way](reading)
    take(batches, warm)
    helpers = psutil.Process().children()
    before = cpu_seconds(helpers)
    taken = take(batches, reading.samples - warm - ahead)
    spent = cpu_seconds(helpers) - before
    for _ in batches:  # a reader that ends by itself leaves nothing behind
        pass
    return 1000 * spent / taken


def take(batches: Batches, samples: int) -> int:
    """Take at least so many samples; returns how many it were."""
    taken = 0
    while taken < samples:
        taken += next(batches)
    return taken
