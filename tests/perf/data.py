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
part. Starting them is not counted: a first pass warms everything up. The ways take turns, several
rounds long, so that a change of the machine's load meets all of them; the table has the median of
the rounds, and the last line is the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from data_ways import (
    BATCH,
    GEOMETRIES,
    USUAL_WORKERS,
    Way,
    decoder_way,
    stream_local_way,
    stream_ways,
    usual_way,
    warmed,
)
from machine import machine
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sa1b_like import make_data_set
from side_by_side import progress, take_turns

Times = dict[str, dict[str, float]]
"""CPU milliseconds a sample, by geometry and way."""

USUAL_SHARE = 16
"""The usual way is so slow that it takes this much fewer samples in a pass."""


def measure_all(folder: Path, settings: argparse.Namespace, bar: Progress) -> Times:
    """CPU milliseconds of each way in each geometry, the median of all rounds."""
    geometries = list(GEOMETRIES)[: 1 if settings.quick else None]
    ways = _ways_without_ray(folder, geometries, settings.samples)
    # Warm before Ray has started its threads: the loader forks its workers.
    ready = _warm(ways, bar)
    with_ray: AbstractContextManager[dict[str, Way]] = (
        nullcontext({}) if settings.quick else stream_ways(folder, geometries, settings.samples)
    )
    with with_ray as streams:
        ready |= _warm({(name, "stream"): way for name, way in streams.items()}, bar)
        measures = {key: way.measure for key, way in ready.items()}
        results = take_turns(measures, settings.rounds, bar, "round")
    times: Times = {geometry: {} for geometry in geometries}
    for (geometry, name), values in results.items():
        times[geometry][name] = round(statistics.median(values), 2)
    return times


def _ways_without_ray(
    folder: Path, geometries: list[str], samples: int
) -> dict[tuple[str, str], Way]:
    few = max(USUAL_WORKERS, samples // USUAL_SHARE)
    ways = {(name, "usual"): usual_way(folder, name, few) for name in geometries}
    for name in geometries:
        ways[name, "stream_local"] = stream_local_way(folder, name, samples)
        ways[name, "limit"] = decoder_way(folder, name, samples, resize=True)
        ways[name, "jpeg"] = decoder_way(folder, name, samples, resize=False)
    return ways


def _warm(ways: dict[tuple[str, str], Way], bar: Progress) -> dict[tuple[str, str], Way]:
    task = bar.add_task("warming up", total=len(ways))
    ready = {}
    for key, way in ways.items():
        ready[key] = warmed(way)
        bar.advance(task)
    bar.remove_task(task)
    return ready


def ratios(times: dict[str, float]) -> dict[str, float]:
    """What a reader asks first: how much is gained, and how much is left to gain."""
    streams = [name for name in ("stream", "stream_local") if name in times]
    pairs: list[tuple[str, str]] = [("usual", name) for name in streams]
    pairs += [(name, limit) for name in streams for limit in ("limit", "jpeg")]
    return {f"{one}_to_{other}": round(times[one] / times[other], 2) for one, other in pairs}


def print_table(console: Console, times: Times) -> None:
    """Print CPU time, gain over the usual way and multiple of the limit."""
    table = Table(title="CPU milliseconds a sample")
    table.add_column("way")
    for geometry in times:
        table.add_column(f"{geometry} ms", justify="right")
        table.add_column("usual / it", justify="right")
        table.add_column("it / limit", justify="right")
    for way in next(iter(times.values())):
        cells = []
        for row in times.values():
            time = row[way]
            cells += [f"{time:.1f}", f"{row['usual'] / time:.1f}", f"{time / row['limit']:.2f}"]
        table.add_row(way, *cells)
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--samples",
        type=int,
        default=128,
        help=f"samples of one pass, a multiple of {BATCH};"
        f" the usual way takes 1/{USUAL_SHARE} of them (default: 128)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="passes of each way (default: 3)")
    parser.add_argument("--pictures", type=int, default=48, help="samples on disk (default: 48)")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke check: few samples, one geometry, no Ray"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.rounds, arguments.pictures = 16, 1, 16
    return arguments


def main() -> None:
    """Make the data, measure and print."""
    settings = parse_arguments()
    logging.disable(logging.WARNING)  # Ray Data tells of every pass
    console = Console(width=100)
    with tempfile.TemporaryDirectory(prefix="tap-perf-") as name, progress(console) as bar:
        folder = Path(name)
        task = bar.add_task("making shards", total=settings.pictures)
        jpeg_bytes = make_data_set(
            folder, settings.pictures, lambda done, of: bar.update(task, completed=done, total=of)
        )
        bar.remove_task(task)
        times = measure_all(folder, settings, bar)
    print_table(console, times)
    line = {
        **{geometry: {**row, "ratios": ratios(row)} for geometry, row in times.items()},
        "jpeg_bytes": round(jpeg_bytes),
        "samples": settings.samples,
        "rounds": settings.rounds,
        **machine(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
