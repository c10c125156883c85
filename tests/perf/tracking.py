"""What a tracker costs training: a run without one, beside trackers that are up, dead and slow.

Every round trains the same job once each way, as `tap train` does: workers of Ray Train, and the
tracker's follower in the driver, which looks at the run every `--interval` seconds. `dead` refuses
connections, `slow` takes them and never answers. The last line is JSON: the median step of each
way, its ratio to that of `none`, and the seconds that the run's end waited for the tracker.

Ratios of short runs scatter by more than what is looked for. So the driver's CPU time, in which
all that a tracker takes is contained, is told too: what it is above that of `none`, as a share of
one CPU from the run's start to its end.

    .venv/bin/python tests/perf/tracking.py [--rounds 3] [--steps 200] [--interval 5]
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from machine import machine
from rich.console import Console
from side_by_side import progress, take_turns

ALLOWED_SHARE = 0.02
FIRST_STEPS = 10
"""Steps that are not measured: threads and caches warm up."""
FINAL_SECONDS = 2.0


class Measured(NamedTuple):
    """One run."""

    step_seconds: float
    """Median over its steps."""
    end_seconds: float
    """From the end of training to the end of the run."""
    driver_seconds: float
    """CPU time of the driver's process, from the run's start to its end."""
    seconds: float
    """The run's whole time."""


@contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def ways_of(options: argparse.Namespace, folder: Path, slow: str) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    trackers: dict[str, dict[str, Any]] = {
        "none": {"tracker": "none"},
        "up": {"tracker": "mlflow"},
        "dead": {"tracker": "mlflow", "mlflow": {"uri": "http://127.0.0.1:9"}},
        "slow": {"tracker": "mlflow", "mlflow": {"uri": slow}},
    }
    return {
        name: lambda name=name, tracking=tracking: measure(  # type: ignore[misc]
            job_of(options, folder, name, tracking)
        )
        for name, tracking in trackers.items()
    }


def job_of(options: argparse.Namespace, folder: Path, name: str, tracking: dict[str, Any]) -> Any:
    """A small job that records every step."""
    from tap_platform.config.load import validate_job

    tree = {
        "name": name,
        "storage": str(folder / "runs"),
        "model": {"preset": "tiny"},
        "data": {
            "source": "scenes",
            "path": str(folder / "scenes"),
            "train_scenes": 128,
            "val_scenes": 8,
            "partitions": 2,
            "regions_per_image": 8,
        },
        "training": {"max_steps": options.steps, "global_batch": 4, "log_every": 1},
        "scale": {"device": "cpu"},
        "evaluation": {"final_images": 0, "page": False},
        "tracking": {"interval": options.interval, "final_timeout": FINAL_SECONDS, **tracking},
    }
    return validate_job(tree, where=name)


def measure(job: Any) -> Measured:
    """Train, and read from the run directory how long its steps took."""
    from tap_platform.launch.train import create_run, train
    from tap_platform.runs.metrics import read_metrics
    from tap_platform.runs.status import read_status

    quiet = Console(quiet=True)
    run = create_run(job, console=quiet)
    began, cpu_before = time.time(), time.process_time()
    train(job, run, quiet)
    ended, cpu = time.time(), time.process_time() - cpu_before
    steps = [
        record.values["speed/seconds_per_step"]
        for record in read_metrics(run.metrics)
        if record.kind == "train" and record.step > FIRST_STEPS
    ]
    from datetime import datetime

    finished = datetime.fromisoformat(read_status(run.status).updated).timestamp()
    return Measured(median(steps), ended - finished, cpu, ended - began)


def judged(results: dict[str, list[Measured]]) -> dict[str, Any]:
    """The middle of the rounds for each way, and whether it costs no more than it may."""
    plain = median(each.step_seconds for each in results["none"])
    found = {}
    for name, rounds in results.items():
        # Rounds are compared with their own neighbour: the machine's load is alike for both.
        ratios = [
            each.step_seconds / none.step_seconds
            for each, none in zip(rounds, results["none"], strict=True)
        ]
        shares = [
            (each.driver_seconds - none.driver_seconds) / each.seconds
            for each, none in zip(rounds, results["none"], strict=True)
        ]
        found[name] = {
            "step_milliseconds": round(1000 * median(each.step_seconds for each in rounds), 2),
            "ratio": round(median(ratios), 4),
            "ratios": [round(ratio, 4) for ratio in ratios],
            "end_seconds": round(median(each.end_seconds for each in rounds), 2),
            "cpu_share": round(median(shares), 4),
            "cpu_shares": [round(share, 4) for share in shares],
            "met": median(shares) <= ALLOWED_SHARE,
        }
    return {"plain_step_milliseconds": round(1000 * plain, 2), "ways": found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--interval", type=float, default=5.0)
    options = parser.parse_args()
    console = Console(stderr=True)
    import mlflow  # noqa: F401  # once: no round pays for it

    from tap_platform.launch.ray_session import start_ray

    with tempfile.TemporaryDirectory() as folder, silent_server() as slow:
        start_ray(cpus=4)
        ways = ways_of(options, Path(folder), slow)
        with progress(console) as bar:
            results = take_turns(ways, options.rounds, bar, "round")
    print(json.dumps({**judged(results), "rounds": options.rounds, **machine()}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
