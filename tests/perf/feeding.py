"""What it takes to feed many GPUs: bytes, requests, cores and memory, and a simulated run of it.

    python tests/perf/feeding.py [--gpus 256] [--decode-ms 14.1] [--ship-ms 2.3] ...

The arithmetic (bytes/s, requests/s, cores, object-store memory) follows from the costs of a sample
that `tests/perf/data.py` measures. The simulation asks what arithmetic cannot: how many cores are
enough when every step waits for the slowest of all workers and an object store answers late now and
then. A step of all GPUs takes the time that a GPU needs for its images; each worker keeps
`--ahead` samples read or on their way; a read takes a log-normal time; a decode takes its cost with
a spread. The result is the share of time that the GPUs wait for data.

consumer   each worker decodes in threads on the cores of its own GPU's node
ray        Ray Data tasks decode on CPU nodes, one pool for all workers

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

STEPS, WARM_STEPS = 400, 50
FED_WAIT = 0.01
"""GPUs are called fed when they wait less than this share of their time."""
NODE_CORES = 32
BUSY_AT_MOST = 0.9
"""Cores that are planned to be busier than this are not tried: queues grow without end."""


@dataclass(frozen=True)
class Sample:
    """What one sample costs and weighs."""

    usual_ms: float
    """CPU time of the usual way, for comparison."""
    decode_ms: float
    """CPU time from bytes to a frame with its masks."""
    ship_ms: float
    """CPU time that Ray Data takes to bring the encoded bytes to the worker."""
    unpack_ms: float
    """CPU time of the worker for a sample that was decoded elsewhere."""
    encoded_bytes: float
    """Image, annotation and priors as they lie in the shards."""
    decoded_bytes: float
    """Picture, bit-packed masks and priors of the drawn regions."""
    store_bytes: float
    """What Ray Data may hold in the object store for one worker."""


@dataclass(frozen=True)
class Store:
    """How an object store answers."""

    median_ms: float
    p99_ms: float

    def latencies(self, draws: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Seconds that `count` reads take."""
        spread = math.log(self.p99_ms / self.median_ms) / 2.326
        return self.median_ms / 1000 * np.exp(spread * draws.standard_normal(count))


def decode_times(
    draws: np.random.Generator, milliseconds: float, count: int
) -> NDArray[np.float64]:
    """Seconds of CPU of `count` decodes: pictures differ, by a third of the mean."""
    shape = 9.0
    return draws.gamma(shape, milliseconds / 1000 / shape, count)


def consumer_wait(
    sample: Sample, store: Store, gpus: int, step: float, threads: int, ahead: int
) -> float:
    """Share of time that GPUs wait where each worker decodes with `threads` cores of its own."""
    draws = np.random.default_rng(0)
    began = np.zeros(STEPS + 1)
    """When each step could begin its computation."""
    free = np.zeros((threads, gpus))
    for number in range(STEPS):
        issued = began[number - ahead] if number >= ahead else 0.0
        arrived = issued + store.latencies(draws, gpus)
        thread = free.argmin(axis=0), np.arange(gpus)
        cost = decode_times(draws, sample.decode_ms + sample.ship_ms, gpus)
        free[thread] = np.maximum(arrived, free[thread]) + cost
        computed = began[number - 1] + step if number else 0.0
        began[number] = max(computed, float(free[thread].max()))
    return _wait_share(began, step)


def pool_wait(
    sample: Sample, store: Store, gpus: int, step: float, cores: int, ahead: int
) -> float:
    """The same where a pool of `cores` decodes for all workers, first come, first served."""
    draws = np.random.default_rng(0)
    began = np.zeros(STEPS + 1)
    free = [0.0] * cores
    for number in range(STEPS):
        issued = began[number - ahead] if number >= ahead else 0.0
        arrivals = np.sort(issued + store.latencies(draws, gpus))
        ready = 0.0
        costs = decode_times(draws, sample.decode_ms + sample.ship_ms, gpus)
        for arrived, cost in zip(arrivals.tolist(), costs.tolist(), strict=True):
            done = max(arrived, heapq.heappop(free)) + cost
            heapq.heappush(free, done)
            ready = max(ready, done)
        computed = began[number - 1] + step if number else 0.0
        began[number] = max(computed, ready + sample.unpack_ms / 1000)
    return _wait_share(began, step)


def _wait_share(began: NDArray[np.float64], step: float) -> float:
    seconds = began[STEPS - 1] - began[WARM_STEPS]
    return max(0.0, 1 - step * (STEPS - 1 - WARM_STEPS) / seconds)


def threads_needed(sample: Sample, store: Store, gpus: int, rate: float, ahead: int) -> int | None:
    """Fewest decoding cores beside each GPU that keep all fed; None if late reads forbid it."""
    cost = (sample.decode_ms + sample.ship_ms) / 1000
    threads = max(1, math.ceil(rate * cost / BUSY_AT_MOST))
    while consumer_wait(sample, store, gpus, 1 / rate, threads, ahead) > FED_WAIT:
        if threads > 64:
            return None
        threads += 1
    return threads


def nodes_needed(sample: Sample, store: Store, gpus: int, rate: float, ahead: int) -> int | None:
    """Fewest CPU nodes whose pool keeps all GPUs fed; None if late reads forbid it."""
    cost = (sample.decode_ms + sample.ship_ms) / 1000
    nodes = max(1, math.ceil(gpus * rate * cost / BUSY_AT_MOST / NODE_CORES))
    while pool_wait(sample, store, gpus, 1 / rate, nodes * NODE_CORES, ahead) > FED_WAIT:
        if nodes > gpus:
            return None
        nodes += 1
    return nodes


def feed(
    sample: Sample, store: Store, gpus: int, rate: float, ahead: int
) -> dict[str, float | None]:
    """Everything that a demand of `rate` images a second and GPU asks for."""
    images = gpus * rate
    cost = (sample.decode_ms + sample.ship_ms) / 1000
    return {
        "images_per_second_and_gpu": rate,
        "images_per_second": images,
        "read_megabytes_per_second": images * sample.encoded_bytes / 1e6,
        "requests_per_second": images,
        "busy_cores": images * cost,
        "busy_cores_usual": images * sample.usual_ms / 1000,
        "threads_per_gpu": threads_needed(sample, store, gpus, rate, ahead),
        "cpu_nodes": nodes_needed(sample, store, gpus, rate, ahead),
        "decoded_megabytes_per_second": images * sample.decoded_bytes / 1e6,
        "store_gigabytes": gpus * sample.store_bytes / 1e9,
    }


ROWS = {
    "images/s": ("images_per_second", "{:,.0f}"),
    "read from the object store, MB/s": ("read_megabytes_per_second", "{:,.0f}"),
    "requests to it a second": ("requests_per_second", "{:,.0f}"),
    "busy cores in all": ("busy_cores", "{:,.1f}"),
    "  the usual way": ("busy_cores_usual", "{:,.0f}"),
    "consumer: decoding threads a GPU": ("threads_per_gpu", "{:,}"),
    f"ray: CPU nodes of {NODE_CORES} cores": ("cpu_nodes", "{:,}"),
    "ray: decoded MB/s over the network": ("decoded_megabytes_per_second", "{:,.0f}"),
    "object-store memory, GB in all": ("store_gigabytes", "{:.0f}"),
}


def print_table(console: Console, columns: list[dict[str, float | None]], title: str) -> None:
    """One column a demand."""
    table = Table(title=title)
    table.add_column("images/s that one GPU takes")
    for column in columns:
        table.add_column(f"{column['images_per_second_and_gpu']:g}", justify="right")
    for name, (key, shape) in ROWS.items():
        cells = (column[key] for column in columns)
        table.add_row(name, *("-" if cell is None else shape.format(cell) for cell in cells))
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    """The command line; the defaults are what `tests/perf/data.py` measures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", type=int, default=256)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1, 2, 4, 8])
    parser.add_argument("--usual-ms", type=float, default=1215.0)
    parser.add_argument("--decode-ms", type=float, default=14.1)
    parser.add_argument("--ship-ms", type=float, default=2.3)
    parser.add_argument("--unpack-ms", type=float, default=2.0)
    parser.add_argument("--encoded-kb", type=float, default=840.0)
    parser.add_argument("--decoded-kb", type=float, default=2800.0)
    parser.add_argument("--store-mb", type=float, default=268.0)
    parser.add_argument("--median-ms", type=float, default=60.0, help="of a read")
    parser.add_argument("--p99-ms", type=float, default=300.0, help="of a read")
    parser.add_argument("--ahead", type=int, default=64, help="samples read ahead for a worker")
    return parser.parse_args()


def main() -> None:
    """Compute, simulate and print."""
    ask = parse_arguments()
    sample = Sample(
        usual_ms=ask.usual_ms,
        decode_ms=ask.decode_ms,
        ship_ms=ask.ship_ms,
        unpack_ms=ask.unpack_ms,
        encoded_bytes=ask.encoded_kb * 1e3,
        decoded_bytes=ask.decoded_kb * 1e3,
        store_bytes=ask.store_mb * 1e6,
    )
    store = Store(ask.median_ms, ask.p99_ms)
    columns = [feed(sample, store, ask.gpus, rate, ask.ahead) for rate in ask.rates]
    print_table(Console(width=100), columns, f"Feeding {ask.gpus} GPUs, one image a step on each")
    print(json.dumps({"settings": vars(ask), "columns": columns}))


if __name__ == "__main__":
    main()
