"""CPU time that a training sample costs: our stream, the ways of others, and the limit.

    python tests/perf/data.py [--samples N] [--rounds N] [--quick]

Makes SA-1B-like shards in a temporary folder (1500 x 2250 JPEGs of about 640 KB, 60 to 100 masks,
priors), then reads them for a ViT-B: a frame of 1024 x 1024, 64 regions, masks of 256 x 256.

usual            webdataset and torch's DataLoader, with Pillow, pycocotools and a resize of every
                 mask
webdataset       the same with our decoder
read_webdataset  `ray.data.read_webdataset` and `map` with our decoder
stream           our stream through Ray Data, decoded by threads of the worker
stream_ray       the same, decoded by Ray Data's tasks (`data.decode=ray`)
stream_local     our stream without Ray
limit            the JPEG decoder (at a fraction of the size, where allowed) and the resize, no more
jpeg             the JPEG decoder alone

CPU time is that of a way's process and of all that it has started: the DataLoader's workers, and
all of Ray, its daemons too. The clock runs over the middle of what a way reads: what starting it
costs is not counted, and what it has read ahead is as much at the end as at the start. The ways
take turns, several rounds long, so that a change of the machine's load meets all of them; the
tables have the median of the rounds. The first geometry is that of evaluation (long side 1024,
where half the size is decoded), the second that of training (long side 512 to 2048, then a crop).
At last, 2,000 samples run through `stream`, and the memory of the worker and of all of Ray is
watched. The last line is all of it as JSON, with the first geometry's figures at the top.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import data_hosts
from data_ways import GEOMETRIES, HOSTS, Reading, measure
from machine import machine
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sa1b_like import make_data_set
from side_by_side import progress, take_turns

Times = dict[str, dict[str, float]]
"""CPU milliseconds a sample, by geometry and way."""

HEADLINE = "evaluation"
USUAL_SHARE = 16
"""The usual way is so slow that it takes this much fewer samples in a turn."""


USUAL_AROUND = 24
AROUND = {"loader": 32, "ray": 384, "plain": 32}
"""Samples before and after those that are measured: as many as the ways of a process read ahead."""


class Target(NamedTuple):
    """What our stream is asked for: `way` costs at least `factor` times what `stream` costs."""

    way: str
    factor: float


TARGETS = (
    Target("usual", 40.0),
    Target("read_webdataset", 2.0),
    Target("webdataset", 1.1),
    Target("limit", 0.6),
)


def judge(times: Mapping[str, float]) -> dict[str, dict[str, float | bool]]:
    """How each target is met: the ratio that was asked for, the one that was measured."""
    return {
        f"{target.way}_to_stream": {
            "wanted": target.factor,
            "measured": round(times[target.way] / times["stream"], 3),
            "met": times[target.way] >= target.factor * times["stream"],
        }
        for target in TARGETS
    }


@contextmanager
def hosts(names: list[str]) -> Iterator[dict[str, ProcessPoolExecutor]]:
    """A process for each group of ways; that of Ray ends its Ray."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools = {}
        for name in names:
            pool = stack.enter_context(ProcessPoolExecutor(1, spawn))
            pools[name] = pool
            if name == "ray":
                pool.submit(data_hosts.start).result()
                stack.callback(lambda pool: pool.submit(data_hosts.stop).result(), pool)
        yield pools


def measure_all(folder: Path, settings: argparse.Namespace, bar: Progress) -> dict[str, Any]:
    """Every way in every geometry, and the memory of ours."""
    with hosts(list(HOSTS)) as pools:
        turns = {}
        for geometry in settings.geometries:
            for host, ways in HOSTS.items():
                for way in ways:
                    around = USUAL_AROUND if way == "usual" else AROUND[host]
                    samples = settings.samples // (USUAL_SHARE if way == "usual" else 1)
                    reading = Reading(folder, geometry, samples + 2 * around)
                    call = partial(measure, way, reading, around, around)
                    turns[geometry, way] = partial(_in_host, pools[host], call)
        results = take_turns(turns, settings.rounds, bar, "round")
        task = bar.add_task("watching memory", total=None)
        watching = pools["ray"].submit(
            data_hosts.watch_memory, Reading(folder, HEADLINE, settings.memory_samples)
        )
        found = watching.result()
        bar.remove_task(task)
    times: Times = {geometry: {} for geometry in settings.geometries}
    for (geometry, way), values in results.items():
        times[geometry][way] = round(statistics.median(values), 2)
    return {"times": times, "memory": found}


def _in_host(pool: ProcessPoolExecutor, call: partial[float]) -> float:
    return pool.submit(call).result()


def print_tables(console: Console, times: Times) -> None:
    """Print CPU time, gain over the usual way and multiple of the limit."""
    for geometry, row in times.items():
        table = Table(title=f"{geometry}: CPU milliseconds a sample")
        for heading in ("way", "ms", "usual / it", "it / stream", "limit / it"):
            table.add_column(heading, justify="left" if heading == "way" else "right")
        for way, time in row.items():
            ratios = row["usual"] / time, time / row["stream"], row["limit"] / time
            table.add_row(way, f"{time:.1f}", *(f"{ratio:.2f}" for ratio in ratios))
        console.print(table)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--samples",
        type=int,
        default=512,
        help=f"samples of one turn; the usual way takes 1/{USUAL_SHARE} of them (default: 512)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: 3)")
    parser.add_argument("--pictures", type=int, default=48, help="samples on disk (default: 48)")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke check: few samples, one geometry"
    )
    arguments = parser.parse_args()
    arguments.geometries, arguments.memory_samples = list(GEOMETRIES), 2000
    if arguments.quick:
        arguments.samples, arguments.rounds, arguments.pictures = 64, 1, 16
        arguments.geometries, arguments.memory_samples = [HEADLINE], 160
    return arguments


def main() -> None:
    """Make the data, measure and print."""
    settings = parse_arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console = Console(width=100)
    with tempfile.TemporaryDirectory(prefix="tap-perf-") as name, progress(console) as bar:
        folder = Path(name)
        task = bar.add_task("making shards", total=settings.pictures)
        jpeg_bytes = make_data_set(
            folder, settings.pictures, lambda done, of: bar.update(task, completed=done, total=of)
        )
        bar.remove_task(task)
        found = measure_all(folder, settings, bar)
    times, headline = found["times"], found["times"][HEADLINE]
    print_tables(console, times)
    line = {
        **headline,
        "ratios": judge(headline),
        "targets_met": all(each["met"] for each in judge(headline).values()),
        **{name: times[name] for name in times if name != HEADLINE},
        "memory": found["memory"],
        "jpeg_bytes": round(jpeg_bytes),
        "samples": settings.samples,
        "rounds": settings.rounds,
        **machine(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
