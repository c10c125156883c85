"""What a checkpoint costs training: written in the background, and with training waiting for it.

    python tests/perf/checkpoints.py [--preset vit_b --image-size 256] [--store-mb-s 100] [--quick]

Weights and AdamW's moments of a TAP that trains are written to a local folder, and to a store that
takes so many MB a second. Ways take turns, so that a change of the machine's load meets all of
them; figures are medians of the rounds.

stall   how long the training loop stands still, as a share of a step without a checkpoint
slower  how much longer the steps take while a checkpoint is written beside them, summed, as a
        share of a step; the writer shares the CPU with training here, which it does not on GPUs
write   seconds until the checkpoint is committed

The last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import fsspec
import torch
from fsspec.implementations.memory import MemoryFileSystem
from machine import machine
from rich.console import Console
from rich.table import Table
from side_by_side import progress, take_turns
from torch import Tensor
from training_step import Mode, TrainingStep

from datamodules.storage import Location, location, remove_tree
from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.config.model import PresetName, TapConfig
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.training.checkpoint_writer import CheckpointWriter

MEGABYTE = 1e6


class SlowStore(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store in memory that is reached over a line of so many MB a second."""

    megabytes_per_second = 100.0

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        """Upload a file."""
        time.sleep(Path(lpath).stat().st_size / MEGABYTE / self.megabytes_per_second)
        super().put_file(lpath, rpath, **options)


class Cost(NamedTuple):
    """One checkpoint."""

    step: float
    """Seconds of a step without it."""
    stall: float
    """Seconds."""
    slower: float
    """Seconds, over all steps that were made meanwhile."""
    write: float
    """Seconds."""


def state_of(step: TrainingStep) -> dict[str, Tensor]:
    """Weights and moments, as a checkpoint of one worker holds them."""
    names = {parameter: name for name, parameter in step.model.named_parameters()}
    tensors = {f"weight/{name}@0": p.detach().flatten() for p, name in names.items()}
    for parameter, state in step.optimizer.state.items():
        for kind in ("exp_avg", "exp_avg_sq"):
            tensors[f"{kind}/{names[parameter]}@0"] = state[kind].flatten()
    return tensors


def seconds_of(work: Callable[[], None], step: TrainingStep) -> float:
    """Wall-clock time, the device's work included."""
    step.synchronize()
    start = time.perf_counter()
    work()
    step.synchronize()
    return time.perf_counter() - start


def checkpoint_once(step: TrainingStep, mode: Mode, writer: CheckpointWriter, run: Path) -> Cost:
    """A step, a checkpoint, and steps until it is committed."""
    train = partial(step.run, mode)
    alone = seconds_of(train, step)
    number = len(read_events(run / "events.jsonl")) + 1
    stall = seconds_of(
        lambda: writer.save(number, state_of(step), {}, {"training.json": {}}, last=False), step
    )
    slower = 0.0
    while writer.busy:
        slower += seconds_of(train, step) - alone
    event = read_events(run / "events.jsonl")[-1]
    assert event["kind"] == "checkpoint", event
    return Cost(alone, stall, slower, event["seconds"])


def measure(step: TrainingStep, mode: Mode, folder: Path, rounds: int, console: Console) -> Any:
    """The cost of each way at each place."""
    places: dict[str, Location] = {"disk": folder / "disk", "store": location("memory://store")}
    ways, writers = {}, []
    for place_name, place in places.items():
        for way, background in (("background", True), ("synchronous", False)):
            run = folder / place_name / way
            run.mkdir(parents=True)
            config = CheckpointConfig(background=background, keep_last=1)
            events, metrics = EventLog(run / "events.jsonl"), MetricsWriter(run / "metrics.jsonl")
            writer = CheckpointWriter(place / way, 0, 1, events, metrics, config)
            writers.append(writer)
            ways[f"{way} to {place_name}"] = partial(checkpoint_once, step, mode, writer, run)
    with progress(console) as bar:
        take_turns(ways, 1, bar, "warming up")
        costs = take_turns(ways, rounds, bar, "round")
    for writer in writers:
        writer.close()
        remove_tree(writer.place)
    return {name: summary(each) for name, each in costs.items()}


def summary(costs: list[Cost]) -> dict[str, float]:
    """Medians; shares are taken round by round."""
    figures = {
        "step_seconds": [cost.step for cost in costs],
        "stall_seconds": [cost.stall for cost in costs],
        "write_seconds": [cost.write for cost in costs],
        "stall_share": [cost.stall / cost.step for cost in costs],
        "slower_share": [cost.slower / cost.step for cost in costs],
    }
    return {name: round(statistics.median(values), 4) for name, values in figures.items()}


def print_table(console: Console, figures: dict[str, dict[str, float]], megabytes: float) -> None:
    """Print the ways side by side."""
    table = Table(title=f"A checkpoint of {megabytes:,.0f} MB")
    table.add_column("way")
    for column in ("step s", "stall s", "of a step", "slower, of a step", "write s"):
        table.add_column(column, justify="right")
    for name, each in figures.items():
        table.add_row(
            name,
            f"{each['step_seconds']:.2f}",
            f"{each['stall_seconds']:.3f}",
            f"{each['stall_share']:.1%}",
            f"{each['slower_share']:.1%}",
            f"{each['write_seconds']:.2f}",
        )
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=get_args(PresetName), default="vit_b")
    parser.add_argument("--image-size", type=int, default=256, help="pixels (default: 256)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (default: cpu)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--images", type=int, default=1, help="images in the batch (default: 1)")
    parser.add_argument("--regions", type=int, default=4, help="regions an image (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints of each way")
    parser.add_argument("--store-mb-s", type=float, default=100, help="of the store (default: 100)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    parser.add_argument("--quick", action="store_true", help="a smoke check: tiny, one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.preset, arguments.rounds = "tiny", 1
    return arguments


def main() -> None:
    """Train, write, measure and print."""
    settings = parse_arguments()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    console = Console(width=100)
    fsspec.register_implementation("memory", SlowStore, clobber=True)
    SlowStore.megabytes_per_second = settings.store_mb_s
    config = TapConfig.preset(settings.preset, image_size=settings.image_size)
    step = TrainingStep(config, settings.images, settings.regions, settings.device)
    mode = Mode(checkpointing=False, precision=settings.precision)
    step.run(mode)
    megabytes = sum(tensor.nbytes for tensor in state_of(step).values()) / MEGABYTE
    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        figures = measure(step, mode, Path(folder), settings.rounds, console)
    print_table(console, figures, megabytes)
    told = {"megabytes": round(megabytes, 1), **figures, **vars(settings)}
    told |= {"threads": torch.get_num_threads(), **machine()}
    print(json.dumps(told, default=str))


if __name__ == "__main__":
    main()
