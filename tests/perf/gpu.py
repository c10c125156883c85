"""Training steps of the real sizes on one GPU: time, MFU, memory, and where the time goes.

    python tests/perf/gpu.py [--presets vit_b vit_l] [--image-size 1024] [--regions 64] [--images 1]
    python tests/perf/gpu.py --device cpu --presets tiny --image-size 128 --regions 4

ddp            torch's data parallelism, with a process group of one
zero_2/zero_3  DeepSpeed's ZeRO in bf16, likewise; skipped where DeepSpeed is missing
checkpointing  ddp with the encoder's activations recomputed
compile        ddp with the image encoder through `torch.compile`

Every row is a process of its own: what one of them leaves behind touches no other, and one that
fails is told as its error. A step is forward, backward and AdamW on made-up regions, as
`TapPretrain` computes it, without Ray, Lightning or data. MFU is the FLOPs that torch counts in the
real step of `ddp` over the time of the row's step and the GPU's dense bf16 peak: what
is computed twice counts once. Memory is the peak that torch allocates, on CPUs the peak above the
model at rest. Needed are torch >= 2.11, numpy, pydantic, rich and what decodes the data (numba,
orjson, simplejpeg, Pillow, fsspec). The last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from machine import machine
from memory import peak_bytes
from rich.console import Console
from rich.table import Table
from side_by_side import progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from training_step import Mode, Stopwatch, TrainingStep

from tap_platform.config.model import PRESETS, TapConfig

ROWS = ("ddp", "zero_2", "zero_3", "checkpointing", "compile")
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bf16 FLOP/s by a part of the GPU's name."""
PROFILED_STEPS = 3
KERNELS = 15


class Loss(nn.Module):
    """The step's loss as a module, so that a strategy may wrap it."""

    def __init__(self, step: TrainingStep) -> None:
        super().__init__()
        self.model = step.model
        self._loss = lambda: step._loss(step._encode(), step._decode)

    def forward(self) -> Tensor:
        """The loss of the step's batch, a scalar."""
        return self._loss()


def build(row: str, step: TrainingStep, precision: str) -> Callable[[], None]:
    """One training step as the row takes it."""
    computing = partial(
        torch.autocast, step.device.type, torch.bfloat16, enabled=precision == "bf16"
    )
    if row.startswith("zero_"):
        return _with_deepspeed(step, int(row[-1]), precision == "bf16", computing)
    step.model.image_encoder.activation_checkpointing = row == "checkpointing"
    if row == "compile":
        step.model.image_encoder.compile()
    loss = DistributedDataParallel(Loss(step), gradient_as_bucket_view=True)

    def run() -> None:
        with computing():
            value = loss()
        value.backward()
        step.update()

    return run


def _with_deepspeed(
    step: TrainingStep, stage: int, bf16: bool, computing: Callable[[], torch.autocast]
) -> Callable[[], None]:
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=Loss(step),
        optimizer=step.optimizer,
        config={
            "train_micro_batch_size_per_gpu": step.batch.pixels.shape[0],
            "zero_optimization": {"stage": stage, "overlap_comm": False},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": bf16},
        },
    )

    def run() -> None:
        with computing():
            value = engine()
        engine.backward(value)
        engine.step()

    return run


def measure(row: str, preset: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Times, memory and FLOPs of one row; of `ddp` also where the time goes."""
    step = _step(preset, settings)
    run = build(row, step, settings.precision)
    began = time.perf_counter()
    for _ in range(settings.warm_steps):
        run()
    step.synchronize()
    told: dict[str, Any] = {"warm_seconds": round(time.perf_counter() - began, 2)}
    times = [_seconds(run, step) for _ in range(settings.steps)]
    told |= {"seconds": statistics.median(times), "fastest": min(times), "slowest": max(times)}
    told["peak_gb"] = round(_peak(run, step) / 1e9, 3)
    if row == "ddp":
        with FlopCounterMode(display=False) as counter:
            run()
        told["flops"] = counter.get_total_flops()
        told["kernels"] = kernels(run, step)
        told["shares"] = shares(step, settings.precision)
    return told


def _step(preset: str, settings: argparse.Namespace) -> TrainingStep:
    changes = {"image_size": settings.image_size}
    window = PRESETS[preset].get("window_size", 16)  # type: ignore[index]
    grid = settings.image_size // 16
    if grid % window:
        changes["window_size"] = next(w for w in range(window, 0, -1) if grid % w == 0)
    config = TapConfig.preset(preset, **changes)  # type: ignore[arg-type]
    return TrainingStep(config, settings.images, settings.regions, settings.device)


def _seconds(run: Callable[[], None], step: TrainingStep) -> float:
    began = time.perf_counter()
    run()
    step.synchronize()
    return time.perf_counter() - began


def _peak(run: Callable[[], None], step: TrainingStep) -> int:
    if step.device.type != "cuda":
        return peak_bytes(run, step.device)
    torch.cuda.reset_peak_memory_stats(step.device)
    run()
    return torch.cuda.max_memory_allocated(step.device)


def kernels(run: Callable[[], None], step: TrainingStep) -> list[dict[str, Any]]:
    """What the device does longest, as shares of what it does in a step."""
    on_gpu = step.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(PROFILED_STEPS):
            run()
        step.synchronize()
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = [
        (event.key, getattr(event, field) / 1e3 / PROFILED_STEPS, event.count // PROFILED_STEPS)
        for event in profiler.key_averages()
        if on_gpu is (event.device_type == torch.autograd.DeviceType.CUDA)
    ]
    whole = sum(milliseconds for _, milliseconds, _ in events)
    longest = sorted(events, key=lambda event: -event[1])[:KERNELS]
    return [
        {"name": name, "ms": round(ms, 3), "share": round(ms / whole, 4), "calls": calls}
        for name, ms, calls in longest
    ]


def shares(step: TrainingStep, precision: str) -> dict[str, float]:
    """Share of each part of the model in a step that is cut between its parts."""
    watch = Stopwatch(step.synchronize)
    for _ in range(PROFILED_STEPS):
        step.run_in_phases(Mode(checkpointing=False, precision=precision), watch)
        with watch.phase("optimizer"):
            step.update()
    whole = sum(watch.seconds.values())
    return {name: round(seconds / whole, 4) for name, seconds in watch.seconds.items()}


def one_row(settings: argparse.Namespace) -> None:
    """The work of a row's own process: measure, and print as JSON."""
    preset, row = settings.row
    on_gpu = settings.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        dist.init_process_group(
            "nccl" if on_gpu else "gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1
        )
        told = measure(row, preset, settings)
        dist.destroy_process_group()
    if on_gpu:
        told["device"] = torch.cuda.get_device_name()
    print(json.dumps(told))


def in_a_process(preset: str, row: str, settings: argparse.Namespace) -> dict[str, Any]:
    """A row's figures, or its error."""
    if row.startswith("zero_") and find_spec("deepspeed") is None:
        return {"error": "skipped: DeepSpeed is not installed"}
    command = [sys.executable, *sys.argv, "--row", preset, row]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=settings.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {settings.timeout} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no word"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def with_mfu(rows: dict[str, Any], settings: argparse.Namespace) -> dict[str, Any]:
    """The rows of one model with their MFU, where FLOPs and the GPU's peak are known."""
    first = rows.get("ddp", {})
    name = first.get("device", "")
    peak = next((flops for part, flops in PEAKS.items() if part in name), None)
    if settings.peak_tflops:
        peak = settings.peak_tflops * 1e12
    if not peak or "flops" not in first:
        return rows
    return {
        title: row
        | ({"mfu": round(first["flops"] / row["seconds"] / peak, 4)} if "seconds" in row else {})
        for title, row in rows.items()
    }


def print_tables(console: Console, results: dict[str, dict[str, Any]]) -> None:
    """The rows of every model, then where the time of `ddp` goes."""
    table = Table(title="A training step")
    for title in ("model", "row", "ms", "to ddp", "MFU", "peak GB", "warm-up s"):
        table.add_column(title, justify="left" if title in ("model", "row") else "right")
    for preset, rows in results.items():
        base = rows.get("ddp", {}).get("seconds")
        for title, row in rows.items():
            if "error" in row:
                table.add_row(preset, title, row["error"])
                continue
            ratio = f"{row['seconds'] / base:.2f}" if base else ""
            mfu = f"{row['mfu']:.1%}" if "mfu" in row else ""
            memory = f"{row['peak_gb']:.2f}", f"{row['warm_seconds']:.1f}"
            table.add_row(preset, title, f"{1000 * row['seconds']:.1f}", ratio, mfu, *memory)
    console.print(table)
    for preset, rows in results.items():
        _print_profile(console, preset, rows.get("ddp", {}))


def _print_profile(console: Console, preset: str, row: dict[str, Any]) -> None:
    if "kernels" not in row:
        return
    parts = ", ".join(f"{name} {share:.0%}" for name, share in row["shares"].items())
    console.print(f"{preset}, shares of the step: {parts}")
    table = Table(title=f"{preset}: what the device does longest")
    table.add_column("kernel", max_width=90, overflow="ellipsis", no_wrap=True)
    for title in ("ms", "share", "calls"):
        table.add_column(title, justify="right")
    for each in row["kernels"]:
        table.add_row(each["name"], f"{each['ms']:.2f}", f"{each['share']:.1%}", str(each["calls"]))
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--presets", "--preset", nargs="+", choices=PRESETS, default=["vit_b", "vit_l"]
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--images", type=int, default=1, help="images a step (default: 1)")
    parser.add_argument("--regions", type=int, default=64, help="prompts an image (default: 64)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (default: 10)")
    parser.add_argument("--warm-steps", type=int, default=3, help="steps before them (default: 3)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a row")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16, of a GPU not known here")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure every row, and print."""
    settings = parse_arguments()
    if settings.row:
        one_row(settings)
        return
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is here: try --device cpu --presets tiny --image-size 128")
    console = Console(width=120)
    results: dict[str, dict[str, Any]] = {}
    with progress(console) as bar:
        task = bar.add_task("", total=len(settings.presets) * len(settings.rows))
        for preset in settings.presets:
            rows = {}
            for row in settings.rows:
                bar.update(task, description=f"{preset} {row}")
                rows[row] = in_a_process(preset, row, settings)
                bar.advance(task)
            results[preset] = with_mfu(rows, settings)
    print_tables(console, results)
    print(
        json.dumps(
            {"rows": results, "settings": vars(settings), "torch": torch.__version__, **machine()}
        )
    )


if __name__ == "__main__":
    main()
