"""Estimated memory beside what training steps really allocate.

    python tests/perf/memory_estimate.py [--rows tiny mid strategies] [--device cpu]

Every row is a process of its own for each of its workers: the product's recipe, optimizer and
strategy settings on a made-up batch, three steps. Measured is the peak of what torch allocates
from before the model is built on: on CPUs by adding up the profiler's allocations, on GPUs by
torch's own count. Estimated is what `tap plan --on` tells, without what is beside torch. Several
workers talk over gloo, on GPUs over nccl. The last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from machine import machine
from real_memory import peak_of_steps
from rich.console import Console
from rich.table import Table
from side_by_side import progress

from tap_platform.config.job import JobConfig
from tap_platform.config.load import load_job
from tap_platform.estimate.memory import memory_of
from tap_platform.estimate.traced_step import trace_step

JOBS = Path(__file__).parents[2] / "jobs"
PRETRAIN, FINE_TUNE = JOBS / "tap_vit_b.yaml", JOBS / "vg_full_ft.yaml"
TINY = ("model={preset: tiny}", "data.regions_per_image=8")
# 39 million parameters: what a CPU trains in seconds, with state that tells beside activations.
MID = (
    "model={preset: tiny, encoder_depth: 8, encoder_dim: 512, encoder_heads: 8, embed_dim: 128}",
    "data.regions_per_image=8",
)


class Row(NamedTuple):
    """What one row trains."""

    overrides: tuple[str, ...]
    workers: int = 1
    job: Path = PRETRAIN


def rows(wanted: list[str]) -> Iterator[Row]:
    """The rows of some sets."""
    if "tiny" in wanted:
        for images in (1, 2, 4):
            for precision in ("fp32", "bf16"):
                yield Row((*TINY, f"training.global_batch={images}", _computes(precision)))
        for again in (False, True):
            yield Row((*TINY, "model.image_size=512", *_batch(2), _recomputes(again)))
    if "mid" in wanted:
        for again in (False, True):
            for precision in ("fp32", "bf16"):
                yield Row((*MID, *_batch(2), _computes(precision), _recomputes(again)))
        yield Row((*MID, "model.image_size=512", *_batch(1)))
        yield Row((*MID, *_batch(2)), job=FINE_TUNE)
        yield Row((*MID, *_batch(2), "recipe.train=text_decoder"), job=FINE_TUNE)
        yield Row((*MID, *_batch(4), "training.micro_batch=1"))
    if "strategies" in wanted:
        for strategy in ("ddp", "zero_1", "zero_2", "zero_3", "fsdp"):
            yield Row((*MID, *_batch(2), f"scale.strategy={strategy}"), workers=2)
        yield Row((*MID, *_batch(4), "training.micro_batch=1"), workers=2)


def _batch(images: int) -> tuple[str, str]:
    return f"training.global_batch={images}", "training.precision=fp32"


def _computes(precision: str) -> str:
    return f"training.precision={precision}"


def _recomputes(again: bool) -> str:
    return f"model.activation_checkpointing={str(again).lower()}"


def job_of(row: Row, device: str) -> JobConfig:
    """The job of a row."""
    batch = next(each for each in row.overrides if each.startswith("training.global_batch="))
    partitions = batch.replace("training.global_batch", "data.partitions")
    scale = (f"scale.workers={row.workers}", f"scale.device={'gpu' if device == 'cuda' else 'cpu'}")
    needs = ("data={source: scenes, jitter: {minimum: 1, maximum: 1}}", "init_from=some-run")
    return load_job(row.job, [*needs, *row.overrides, partitions, *scale])


def estimated(job: JobConfig, device: str) -> int:
    """Bytes that torch is said to allocate."""
    on_gpu = device == "cuda"
    memory = memory_of(job, trace_step(job, on_gpu), on_gpu)
    # The benchmark's batch is one and stays; a run's next one is on its way beside it.
    return memory.allocated + memory.host * (not on_gpu) - memory.batches // 2


def measured(number: int, row: Row, settings: argparse.Namespace) -> int:
    """Bytes of the first of a row's workers, each a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            subprocess.Popen(
                [sys.executable, *sys.argv, "--worker", str(number), str(rank), f"{folder}/meet"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(row.workers)
        ]
        told = [each.communicate(timeout=settings.timeout) for each in workers]
    if workers[0].returncode:
        raise RuntimeError(told[0][1][-2000:])
    return int(told[0][0].splitlines()[-1])


def work(settings: argparse.Namespace) -> None:
    """One worker's life: join, train, tell the peak."""
    number, rank, meet = int(settings.worker[0]), int(settings.worker[1]), settings.worker[2]
    row = list(rows(settings.rows))[number]
    device = torch.device(settings.device, rank) if settings.device == "cuda" else "cpu"
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(row.workers)}
    if row.workers > 1:
        backend = "nccl" if settings.device == "cuda" else "gloo"
        dist.init_process_group(
            backend, init_method=f"file://{meet}", rank=rank, world_size=row.workers
        )
    print(peak_of_steps(job_of(row, settings.device), torch.device(device)))


def told(row: Row, estimate: int, peak: int) -> dict[str, Any]:
    """A row as JSON."""
    return {
        "job": row.job.stem,
        "overrides": list(row.overrides),
        "workers": row.workers,
        "estimated": estimate,
        "measured": peak,
        "difference": round(estimate / peak - 1, 4),
    }


def print_table(console: Console, results: list[dict[str, Any]]) -> None:
    """One line a row."""
    table = Table(title="Memory of a worker: estimated and measured")
    for title in ("job", "settings", "workers", "estimated MB", "measured MB", "difference"):
        table.add_column(title, justify="left" if title in ("job", "settings") else "right")
    for each in results:
        model = "mid" if "512, encoder_heads" in each["overrides"][0] else "tiny"
        settings = [_short(text) for text in each["overrides"][1:]]
        table.add_row(
            f"{each['job']}, {model}",
            ", ".join(text for text in settings if text),
            str(each["workers"]),
            f"{each['estimated'] / 1e6:,.0f}",
            f"{each['measured'] / 1e6:,.0f}",
            f"{each['difference']:+.1%}",
        )
    console.print(table)


def _short(override: str) -> str:
    key, _, value = override.rpartition("=")
    name = key.rpartition(".")[2]
    return "" if name == "regions_per_image" else f"{name} {value}"


def main() -> None:
    """Estimate, measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sets = ("tiny", "mid", "strategies")
    parser.add_argument("--rows", nargs="+", choices=sets, default=list(sets))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a row")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.worker:
        work(settings)
        return
    console = Console(width=120)
    results = []
    with progress(console) as bar:
        wanted = list(rows(settings.rows))
        task = bar.add_task("", total=len(wanted))
        for number, row in enumerate(wanted):
            bar.update(task, description=" ".join(row.overrides[-2:]))
            estimate = estimated(job_of(row, settings.device), settings.device)
            results.append(told(row, estimate, measured(number, row, settings)))
            bar.advance(task)
    print_table(console, results)
    print(
        json.dumps(
            {
                "rows": results,
                "largest_difference": max(abs(each["difference"]) for each in results),
                "settings": vars(settings),
                "torch": torch.__version__,
                **machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
