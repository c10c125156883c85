"""Where the CPU time of one decoded sample goes, step by step, in one thread.

    python tests/perf/decode_steps.py [--pictures N] [--rounds N] [--quick]

Makes SA-1B-like samples (1500 x 2250 JPEGs of about 640 KB, 60 to 100 masks, priors) and decodes
them for a ViT-B: a frame of 1024 x 1024, 64 regions, masks of 256 x 256, in the geometry of
evaluation (long side 1024) and of training (long side 512 to 2048, then a crop of the frame).

header    size of the picture, from its first bytes
json      parsing of the annotation
regions   run lengths to masks: all that is drawn, or tried
priors    the drawn rows, as float32
jpeg      the JPEG decoder, at a fraction of the size where allowed
resize    resampling to the frame
pad       the rest of the frame
other     draws, placement, and what lies between the steps
sample    `decode_sample` as a whole, into the slots of a batch
collate   four samples to a batch, a sample's share

CPU milliseconds a sample, the least of all rounds: what the machine can do where nobody disturbs
it. `threads_2` is the same work done by two threads at once, wall time a sample: half of `sample`,
or near it, where the steps hold no lock. `faults` are the pages that the kernel had to map. The
last line is the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from data_ways import BATCH, GEOMETRIES, PRESET, REGIONS
from machine import machine
from rich.console import Console
from rich.table import Table
from sa1b_like import make_data_set
from side_by_side import progress

from datamodules.decoding import decode
from datamodules.decoding.decode import DecodedSample, Frame, decode_sample
from datamodules.order.draws import sample_seed
from datamodules.order.plan import Position
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import RawSample
from datamodules.stream.batch import collate
from tap_platform.config.data import ShardSource
from tap_platform.config.model import TapConfig

STEPS = {
    "agreed_size": "header",
    "read_annotation": "json",
    "_draw_regions": "regions",
    "open_priors": "priors",
    "_rows": "priors",
    "decode_picture": "jpeg",
    "resample": "resize",
    "_pad": "pad",
}
"""Functions that `decode` calls, and the step that each is part of."""

Milliseconds = dict[str, float]


class Decoding:
    """Decodes all samples, batch by batch, into the slots of one batch after the other."""

    def __init__(self, samples: list[RawSample], geometry: str) -> None:
        self.samples = samples
        self.frame = Frame.of(TapConfig.preset(PRESET))
        self.source = ShardSource(path="", regions_per_image=REGIONS, jitter=GEOMETRIES[geometry])
        self.concepts = {"person": 0, "dog": 1, "tree": 2, "car": 3}
        side, cells = self.frame.size, self.frame.mask_size
        self.pixels = np.zeros((BATCH, side, side, 3), np.uint8)
        self.masks = np.zeros((BATCH, REGIONS, cells, cells), bool)

    def batch(self, first: int, epoch: int = 0) -> list[DecodedSample]:
        """Decode `BATCH` samples from number `first` on."""
        return [self.sample(first + slot, slot, epoch) for slot in range(BATCH)]

    def sample(self, number: int, slot: int, epoch: int) -> DecodedSample:
        """Decode one sample into a slot."""
        return decode_sample(
            self.samples[number],
            sample_seed(0, epoch, number),
            self.source,
            self.frame,
            self.concepts,
            training=True,
            pixels=self.pixels[slot],
            masks=self.masks[slot],
        )

    def starts(self) -> range:
        """Number of the first sample of each batch."""
        return range(0, len(self.samples), BATCH)


@contextmanager
def stopwatch(steps: dict[str, float]) -> Iterator[None]:
    """While in it, add the CPU seconds of every step to `steps`."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            begin = time.process_time()
            try:
                return function(*args, **options)
            finally:
                steps[name] += time.process_time() - begin

        return run

    with ExitStack() as patches:
        for function, step in STEPS.items():
            timer = timed(step, getattr(decode, function))
            patches.enter_context(patch.object(decode, function, timer))
        yield


def measure_steps(decoding: Decoding, epoch: int) -> Milliseconds:
    """One round: CPU milliseconds a sample of each step."""
    steps: dict[str, float] = defaultdict(float)
    with stopwatch(steps):
        for first in decoding.starts():
            begin = time.process_time()
            samples = decoding.batch(first, epoch)
            steps["watched"] += time.process_time() - begin
            begin = time.process_time()
            collate(samples, Position(), decoding.pixels)
            steps["collate"] += time.process_time() - begin
    steps["other"] = steps.pop("watched") - sum(steps[name] for name in set(STEPS.values()))
    return {name: 1000 * value / len(decoding.samples) for name, value in steps.items()}


def measure_sample(decoding: Decoding, epoch: int) -> Milliseconds:
    """One round without watches: CPU milliseconds a sample, and pages mapped."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    begin = time.process_time()
    for first in decoding.starts():
        decoding.batch(first, epoch)
    spent = time.process_time() - begin
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    count = len(decoding.samples)
    return {"sample": 1000 * spent / count, "faults": faults / count}


def measure_threads(decoding: Decoding, pool: ThreadPoolExecutor, epoch: int) -> Milliseconds:
    """One round by two threads: wall milliseconds a sample."""
    begin = time.perf_counter()
    work = [
        pool.submit(decoding.sample, number, number % BATCH, epoch)
        for number in range(len(decoding.samples))
    ]
    for each in work:
        each.result()
    return {"threads_2": 1000 * (time.perf_counter() - begin) / len(decoding.samples)}


def measure(decoding: Decoding, rounds: int) -> Milliseconds:
    """The least of all rounds, which draw the same placements."""
    found: dict[str, list[float]] = defaultdict(list)
    with ThreadPoolExecutor(2) as pool:
        decoding.batch(0)
        for _ in range(rounds):
            results = (
                measure_steps(decoding, 0),
                measure_sample(decoding, 0),
                measure_threads(decoding, pool, 0),
            )
            for result in results:
                for name, value in result.items():
                    found[name].append(value)
    names = [*dict.fromkeys(STEPS.values()), "other", "sample", "collate", "threads_2", "faults"]
    return {name: round(min(found[name]), 3) for name in names}


def read_all(folder: Path) -> list[RawSample]:
    """All samples of the folder of shards."""
    index = DataIndex.load(folder)
    samples: list[RawSample] = []
    for shard, count in enumerate(index.counts.tolist()):
        for sample in read_samples(index, shard, range(count)):
            assert isinstance(sample, RawSample)
            samples.append(sample)
    return samples


def print_table(console: Console, times: dict[str, Milliseconds]) -> None:
    """One row a step, one column a geometry."""
    table = Table("step", *times, title="CPU ms a sample")
    for name in next(iter(times.values())):
        table.add_row(name, *(f"{row[name]:.2f}" for row in times.values()))
    console.print(table)


def main() -> None:
    """Make the data, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=48, help=f"samples, times {BATCH}")
    parser.add_argument("--rounds", type=int, default=7, help="passes over them (default: 7)")
    parser.add_argument("--quick", action="store_true", help="a smoke check: few samples")
    settings = parser.parse_args()
    if settings.quick:
        settings.pictures, settings.rounds = 8, 1
    console = Console(width=80, file=sys.stdout)
    with tempfile.TemporaryDirectory(prefix="tap-perf-") as name, progress(console) as bar:
        task = bar.add_task("making shards", total=settings.pictures)
        folder = Path(name)
        make_data_set(
            folder, settings.pictures, lambda done, of: bar.update(task, completed=done, total=of)
        )
        samples = read_all(folder / "train")
    times = {each: measure(Decoding(samples, each), settings.rounds) for each in GEOMETRIES}
    print_table(console, times)
    print(json.dumps({**times, "pictures": len(samples), "rounds": settings.rounds, **machine()}))


if __name__ == "__main__":
    main()
