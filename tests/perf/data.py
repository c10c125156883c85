"""CPU time that a training sample costs: our stream, the usual way, and the limit.

    python tests/perf/data.py [--samples N] [--quick]

Makes SA-1B-like shards in a temporary folder (1500 x 2250 JPEGs of about 640 KB, 60 to 100 masks,
priors), then reads them for a ViT-B: a frame of 1024 x 1024, 64 regions, masks of 256 x 256.

usual         webdataset and torch's DataLoader, with Pillow, pycocotools and a resize of every mask
stream        `TrainingStream` through Ray Data and `Prefetch`, as a training worker runs it
stream_local  the same, read by the worker itself
limit         the JPEG decoder (at a fraction of the size, where allowed) and the resize, no more
jpeg          the JPEG decoder alone

Each takes the same pictures in the geometry of evaluation (long side 1024) and of training (long
side 512 to 2048, then a crop of the frame). CPU time is that of all processes that take part: this
one, the DataLoader's workers, and all of Ray (its daemons too), each counted only where it takes
part. Starting them is not counted: a first, shorter pass warms everything up. The ways take turns,
several rounds long, so that a change of the machine's load meets all of them; the table has the
median of the rounds, and the last line is the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from machine import cpu_seconds, machine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sa1b_like import HEIGHT, WIDTH, make_data_set
from usual_way import usual_loader

from datamodules.decode import Frame, draw_placement
from datamodules.draws import sample_seed
from datamodules.index import DataIndex
from datamodules.pictures import decode_picture
from datamodules.prefetch import Prefetch
from datamodules.resample import resample
from datamodules.shards import ShardReader
from tap_platform.config.data import ScaleJitterConfig
from tap_platform.config.job import JobConfig
from tap_platform.launch.ray_session import ray_session
from tap_platform.launch.worker_entry import Place, build_streams
from tap_platform.runs.events import EventLog

GEOMETRIES = {
    "evaluation": ScaleJitterConfig(minimum=1.0, maximum=1.0),
    "training": ScaleJitterConfig(),
}
WAYS = ("usual", "stream", "stream_local", "limit", "jpeg")
BATCH = 4
USUAL_WORKERS = 2
USUAL_SHARE = 16
"""The usual way is so slow that it takes this much fewer samples in a pass."""


@dataclass(frozen=True)
class Way:
    """One way to read samples in one geometry."""

    name: str
    geometry: str
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


def make_job(folder: Path, geometry: str, samples: int, reader_tasks: int) -> JobConfig:
    """A job of one worker whose stream ends after `samples` samples."""
    return JobConfig.model_validate(
        {
            "name": "benchmark",
            "model": {"preset": "vit_b"},
            "data": {
                "source": "shards",
                "path": str(folder),
                "partitions": BATCH,
                "reader_tasks": reader_tasks,
                "jitter": GEOMETRIES[geometry],
            },
            "training": {"global_batch": BATCH, "max_steps": samples // BATCH},
        }
    )


def read_stream(job: JobConfig) -> None:
    """Take all batches of our stream, as a training worker does."""
    events = EventLog(Path(job.data.path) / "events.jsonl", attempt=1, rank=0)
    stream, _ = build_streams(job, Place(rank=0, world_size=1, start_step=0), events)
    with closing(Prefetch(stream, depth=2)) as batches:
        taken = sum(len(batch.keys) for batch in batches)
    assert taken == job.training.max_steps * BATCH, "a sample was quarantined"


def read_usual(loader: Any) -> None:
    """Take all batches of the usual loader."""
    for _ in loader:
        pass


def read_jpegs(images: Sequence[bytes], geometry: str, samples: int, *, resize: bool) -> None:
    """Decode the pictures at the placements that the stream draws, and resize them."""
    frame = np.empty((1024, 1024, 3), np.uint8)
    for number in range(samples):
        epoch, position = divmod(number, len(images))
        seed = sample_seed(0, epoch, position)
        place = draw_placement(HEIGHT, WIDTH, len(frame), GEOMETRIES[geometry], seed)
        size = (HEIGHT, WIDTH)
        picture = decode_picture(images[position], size, needed=(place.height, place.width))
        if resize:
            high, wide = place.visible(len(frame))
            across, down = (place.left, place.left + wide), (place.top, place.top + high)
            left, right = (x / place.width for x in across)
            top, bottom = (y / place.height for y in down)
            resample(picture, (left, top, right, bottom), (high, wide), frame)


def ways_without_ray(folder: Path, samples: int) -> list[Way]:
    """The usual way, the stream that reads by itself, and the limits."""
    frame = Frame.of(make_job(folder, "evaluation", samples, 0).model)
    index = DataIndex.load(folder / "train")
    with ShardReader(index) as reader:
        images = [reader.read(s, n).image for s, c in enumerate(index.counts) for n in range(c)]
    few = max(USUAL_WORKERS * BATCH // 2, samples // USUAL_SHARE)
    ways = []
    for geometry, jitter in GEOMETRIES.items():
        loader = usual_loader(
            folder / "train",
            frame,
            jitter,
            regions=64,
            batch=BATCH,
            samples=few,
            workers=USUAL_WORKERS,
        )
        local = make_job(folder, geometry, samples, reader_tasks=0)
        jpegs = partial(read_jpegs, images, geometry, samples)
        ways += [
            Way("usual", geometry, few, partial(read_usual, loader)),
            Way("stream_local", geometry, samples, partial(read_stream, local)),
            Way("limit", geometry, samples, partial(jpegs, resize=True)),
            Way("jpeg", geometry, samples, partial(jpegs, resize=False)),
        ]
    return ways


@contextmanager
def with_ray(folder: Path, samples: int) -> Iterator[list[Way]]:
    """Our stream through Ray Data, while Ray runs."""
    others = set(psutil.Process().children())
    jobs = {geometry: make_job(folder, geometry, samples, 1) for geometry in GEOMETRIES}
    with ray_session(jobs["training"]):
        ray_processes = tuple(set(psutil.Process().children()) - others)
        yield [
            Way("stream", geometry, samples, partial(read_stream, job), ray_processes)
            for geometry, job in jobs.items()
        ]


def measure_all(folder: Path, samples: int, rounds: int, bar: Progress) -> dict[str, Any]:
    """CPU milliseconds of each way in each geometry, the median of all rounds."""
    ways = ways_without_ray(folder, samples)
    task = bar.add_task("warming up", total=len(ways) + 2 + rounds * (len(ways) + 2))

    def take(way: Way, description: str) -> float:
        bar.update(task, description=f"{description}: {way.name}, {way.geometry}")
        milliseconds = way.measure()
        bar.advance(task)
        return milliseconds

    for number, way in enumerate(ways):
        # Forked before Ray has started its threads; whoever is a child now is a loader's worker.
        others = set(psutil.Process().children())
        take(way, "warming up")
        helpers = set(psutil.Process().children()) - others
        ways[number] = replace(way, helpers=tuple(helpers))
    results: dict[tuple[str, str], list[float]] = {}
    with with_ray(folder, samples) as ray_ways:
        for way in ray_ways:
            take(way, "warming up")
        for number in range(rounds):
            for way in (*ways, *ray_ways):
                taken = take(way, f"round {number + 1} of {rounds}")
                results.setdefault((way.geometry, way.name), []).append(taken)
    return {
        geometry: {name: statistics.median(results[geometry, name]) for name in WAYS}
        for geometry in GEOMETRIES
    }


def ratios(times: dict[str, float]) -> dict[str, float]:
    """What a reader asks first: how much is gained, and how much is left to gain."""
    return {
        "usual_to_stream": times["usual"] / times["stream"],
        "usual_to_stream_local": times["usual"] / times["stream_local"],
        "stream_to_limit": times["stream"] / times["limit"],
        "stream_local_to_limit": times["stream_local"] / times["limit"],
    }


def print_table(console: Console, results: dict[str, dict[str, float]]) -> None:
    """Print CPU time, gain over the usual way and multiple of the limit."""
    table = Table(title="CPU milliseconds a sample")
    table.add_column("way")
    for geometry in GEOMETRIES:
        table.add_column(f"{geometry} ms", justify="right")
        table.add_column("usual / it", justify="right")
        table.add_column("it / limit", justify="right")
    for way in WAYS:
        cells = []
        for times in results.values():
            time = times[way]
            cells += [f"{time:.1f}", f"{times['usual'] / time:.1f}", f"{time / times['limit']:.2f}"]
        table.add_row(way, *cells)
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--samples",
        type=int,
        default=192,
        help=f"samples of one pass, a multiple of {BATCH};"
        f" the usual way takes 1/{USUAL_SHARE} of them (default: 192)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="passes of each way (default: 3)")
    parser.add_argument("--pictures", type=int, default=48, help="samples on disk (default: 48)")
    parser.add_argument("--quick", action="store_true", help="one round of 48 samples, 24 on disk")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.rounds, arguments.pictures = 48, 1, 24
    return arguments


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
    with tempfile.TemporaryDirectory(prefix="tap-perf-") as name, bar:
        folder = Path(name)
        task = bar.add_task("making shards", total=arguments.pictures)
        jpeg_bytes = make_data_set(
            folder, arguments.pictures, lambda done, of: bar.update(task, completed=done, total=of)
        )
        results = measure_all(folder, arguments.samples, arguments.rounds, bar)
    print_table(console, results)
    facts = {"samples": arguments.samples, "rounds": arguments.rounds, **machine()}
    console.print(f"JPEGs of {jpeg_bytes / 1000:.0f} KB; {facts}")
    summary = {geometry: {**times, "ratios": ratios(times)} for geometry, times in results.items()}
    line = {**summary.pop("evaluation"), **summary, "jpeg_bytes": round(jpeg_bytes), **facts}
    print(json.dumps(line, default=float))


if __name__ == "__main__":
    main()
