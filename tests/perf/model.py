"""Time and memory of one training step: forward, backward and optimizer, on made-up regions.

    python tests/perf/model.py [--preset vit_b --device cuda --precision bf16] [--quick]

step              the whole two-stage step, with the precision and checkpointing asked for
encoder           forward and backward of the image encoder alone, on the same images
checkpointing_on  the step with activation checkpointing; `checkpointing_off` if it was asked for
bf16              the step in the other precision; `fp32` if bf16 was asked for

The ways take turns, several rounds long, so that a change of the machine's load meets all of them;
times are the best of the rounds, for load only adds. Memory is the peak above the model at rest:
activations, gradients and what kernels need; `state_mb` tells parameters, buffers and the
optimizer's moments. Shares of the step come from a step that is cut between its parts. The last
line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, get_args

import torch
from machine import machine
from memory import peak_bytes
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from side_by_side import progress, take_turns
from training_step import Mode, Stopwatch, TrainingStep

from tap_platform.config.model import PresetName, TapConfig

S = TypeVar("S")
Ways = dict[str, Callable[[], None]]


def ways_of(step: TrainingStep, mode: Mode) -> Ways:
    """What is compared."""
    switched = "checkpointing_off" if mode.checkpointing else "checkpointing_on"
    other = "fp32" if mode.precision == "bf16" else "bf16"
    return {
        "step": partial(step.run, mode),
        "encoder": partial(step.run_encoder, mode),
        switched: partial(step.run, mode._replace(checkpointing=not mode.checkpointing)),
        other: partial(step.run, mode._replace(precision=other)),
    }


def measure(step: TrainingStep, mode: Mode, rounds: int, bar: Progress) -> dict[str, Any]:
    """Milliseconds, peak megabytes, ratios to the step, and the step's shares."""
    ways = ways_of(step, mode)
    take_turns(ways, 1, bar, "warming up")
    peaks = take_turns(_each(ways, peak_bytes, step.device), 1, bar, "memory")
    times = take_turns(_each(ways, _milliseconds, step), rounds, bar, "round")
    shares = [shares_of(step, mode) for _ in range(rounds)]
    figures = {
        "ms": {name: min(values) for name, values in times.items()},
        "peak_mb": {name: peak[0] / 1e6 for name, peak in peaks.items()},
        "shares": {name: statistics.median(s[name] for s in shares) for name in shares[0]},
    }
    ratios = {
        f"{figure}_to_step": {n: v / figures[figure]["step"] for n, v in figures[figure].items()}
        for figure in ("ms", "peak_mb")
    }
    rounded = {
        title: {name: round(value, 3) for name, value in values.items()}
        for title, values in (figures | ratios).items()
    }
    return {**rounded, "state_mb": round(state_bytes(step) / 1e6, 1)}


def _each(
    ways: Ways, measured: Callable[[Callable[[], None], S], float], subject: S
) -> dict[str, Callable[[], float]]:
    """Calls that measure each way."""
    return {name: partial(measured, way, subject) for name, way in ways.items()}


def _milliseconds(work: Callable[[], None], step: TrainingStep) -> float:
    step.synchronize()
    start = time.perf_counter()
    work()
    step.synchronize()
    return 1000 * (time.perf_counter() - start)


def shares_of(step: TrainingStep, mode: Mode) -> dict[str, float]:
    """Share of each part in the time of a step, forward and backward together."""
    watch = Stopwatch(step.synchronize)
    step.run_in_phases(mode, watch)
    with watch.phase("optimizer"):
        step.update()
    whole = sum(watch.seconds.values())
    return {name: seconds / whole for name, seconds in watch.seconds.items()}


def state_bytes(step: TrainingStep) -> int:
    """Bytes of parameters, buffers and the optimizer's moments."""
    moments = [
        value
        for state in step.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    tensors = [*step.model.parameters(), *step.model.buffers(), *moments]
    return sum(tensor.nbytes for tensor in tensors)


def print_tables(console: Console, figures: dict[str, Any]) -> None:
    """Print the ways side by side, and the shares."""
    table = Table(title="A training step")
    table.add_column("way")
    for column in ("ms", "it / step", "peak MB", "it / step"):
        table.add_column(column, justify="right")
    for name, milliseconds in figures["ms"].items():
        table.add_row(
            name,
            f"{milliseconds:.1f}",
            f"{figures['ms_to_step'][name]:.2f}",
            f"{figures['peak_mb'][name]:.0f}",
            f"{figures['peak_mb_to_step'][name]:.2f}",
        )
    console.print(table)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in figures["shares"].items())
    console.print(f"shares of the step: {shares}; state at rest: {figures['state_mb']:.0f} MB")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=get_args(PresetName), default="tiny")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (default: cpu)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--images", type=int, default=4, help="images in the batch (default: 4)")
    parser.add_argument("--regions", type=int, default=16, help="regions an image (default: 16)")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each way (default: 7)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke check: one round of 1 image with 4 regions"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.regions, arguments.rounds = 1, 4, 1
    return arguments


def main() -> None:
    """Build the step, measure and print."""
    settings = parse_arguments()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    console = Console(width=100)
    step = TrainingStep(
        TapConfig.preset(settings.preset),
        settings.images,
        settings.regions,
        settings.device,
    )
    with progress(console) as bar:
        mode = Mode(settings.activation_checkpointing, settings.precision)
        figures = measure(step, mode, settings.rounds, bar)
    print_tables(console, figures)
    print(
        json.dumps({**figures, **vars(settings), "threads": torch.get_num_threads(), **machine()})
    )


if __name__ == "__main__":
    main()
