"""Communication of a training step on many GPUs, by formula; no GPU is touched.

    python tests/perf/communication_model.py [--gpus 256] [--nics 1 8] [--mfu 0.3 0.45]

Bytes follow from the formulas that `communication.py` measures in small, time from the links, the
step's own time from its FLOPs, which torch counts on the real model without memory (`meta`), and a
stated share of the GPU's peak (MFU). Rings cross every node once for each of its network cards:
their speed is the smaller of NVLink's and of a node's cards together. Collectives of a few
kilobytes cost their latency alone. Nothing is hidden behind computation here: the share of
communication is the worst case. docs/scaling.md explains the table; the last line is everything as
JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from tap_platform.config.model import TapConfig
from tap_platform.models import Tap

POINTS = 9
"""Points of a prompt, the most that pre-training's second stage gives."""
STAGES = 2
SMALL_COLLECTIVES = 29
"""Of a step: 14 batch norms, forward and backward, and the number of regions."""


class Formula(NamedTuple):
    """What a strategy moves in a step, in units of the trained parameters."""

    reduced_everywhere: float
    """By all-reduce."""
    scattered: float
    """By reduce-scatter."""
    gathered: float
    """By all-gather."""
    bytes_on_gpus: int
    """Of a parameter or gradient that travels, in bf16 training."""

    def sent(self, workers: int) -> float:
        """What one worker sends, by ring algorithms."""
        once = (workers - 1) / workers
        return once * (2 * self.reduced_everywhere + self.scattered + self.gathered)


FORMULAS = {
    "ddp": Formula(1, 0, 0, 4),
    "zero_1": Formula(1, 0, 1, 2),
    "zero_2": Formula(1, 0, 1, 2),
    "zero_3": Formula(0, 1, 2, 2),
    "fsdp": Formula(0, 1, 2, 2),
}


def ring_share(collective: str, workers: int) -> float:
    """How much of a tensor a worker sends, by ring algorithms."""
    once = (workers - 1) / workers
    return 2 * once if "allreduce" in collective or "all_reduce" in collective else once


class Cluster(NamedTuple):
    """GPUs and what is between them."""

    gpus: int
    nvlink: float
    """Bytes a second that a GPU sends within its node."""
    nics: int
    """Network cards of a node, each of `nic` bytes a second."""
    nic: float
    peak: float
    """Dense bf16 FLOP/s of a GPU."""
    latency: float
    """Seconds of a collective of a few kilobytes."""
    node: int = 8

    @property
    def ring(self) -> float:
        """Bytes a second that a ring over all GPUs carries."""
        return self.nvlink if self.gpus <= self.node else min(self.nvlink, self.nics * self.nic)


@lru_cache
def step_flops(preset: str, regions: int) -> int:
    """FLOPs of one image: forward and backward of the encoder, and of the decoder's two stages.

    Backward is twice forward. Recomputed activations do not count, as is usual for MFU.
    """
    config = TapConfig.preset(preset)  # type: ignore[arg-type]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = Tap(config)
        images = model.encode(torch.empty(1, 3, config.image_size, config.image_size))
        points = torch.empty(regions, POINTS, 2)
        labels = torch.ones(regions, POINTS, dtype=torch.int64)
        for _ in range(STAGES):
            model.decode(images, points, labels, torch.zeros(regions, dtype=torch.int64))
    return 3 * counter.get_total_flops()


def predict(
    preset: str, strategy: str, cluster: Cluster, regions: int, mfus: Sequence[float]
) -> dict[str, Any]:
    """Bytes, seconds and shares of one model and strategy, one image on each GPU."""
    from tap_platform.launch.parameters import count_parameters

    counts = count_parameters(TapConfig.preset(preset))  # type: ignore[arg-type]
    trained = sum(count for part, count in counts.items() if part != "text_decoder")
    formula = FORMULAS[strategy]
    sent = formula.sent(cluster.gpus) * formula.bytes_on_gpus * trained
    small = SMALL_COLLECTIVES * cluster.latency
    seconds = sent / cluster.ring + small
    flops = step_flops(preset, regions)
    steps = {f"{mfu:g}": flops / (mfu * cluster.peak) for mfu in mfus}
    return {
        "model": preset,
        "strategy": strategy,
        "nics": cluster.nics,
        "trained_parameters": trained,
        "flops": flops,
        "sent_bytes": sent,
        "small_seconds": small,
        "seconds": seconds,
        "step_seconds": steps,
        "share": {mfu: seconds / (seconds + step) for mfu, step in steps.items()},
    }


def print_table(console: Console, rows: list[dict[str, Any]], settings: argparse.Namespace) -> None:
    """One row a model, strategy and network."""
    table = Table(
        title=f"A step on {settings.gpus} GPUs, one image each, {settings.regions} prompts"
    )
    titles = ["model", "strategy", "cards a node", "GB sent a GPU", "ms"]
    titles += [f"step ms, MFU {mfu:g}" for mfu in settings.mfu]
    titles += [f"share, MFU {mfu:g}" for mfu in settings.mfu]
    for title in titles:
        table.add_column(title, justify="left" if title in titles[:2] else "right")
    for row in rows:
        times = (f"{1000 * seconds:,.0f}" for seconds in row["step_seconds"].values())
        shares = (f"{share:.0%}" for share in row["share"].values())
        gigabytes, sending = row["sent_bytes"] / 1e9, 1000 * row["seconds"]
        names = row["model"], row["strategy"], str(row["nics"])
        table.add_row(*names, f"{gigabytes:.2f}", f"{sending:.1f}", *times, *shares)
    console.print(table)


def main() -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", type=int, default=256)
    parser.add_argument("--presets", nargs="+", default=["vit_b", "vit_l", "vit_h"])
    parser.add_argument(
        "--strategies", nargs="+", choices=FORMULAS, default=["ddp", "zero_2", "zero_3"]
    )
    parser.add_argument("--regions", type=int, default=64, help="prompts an image (default: 64)")
    parser.add_argument("--mfu", type=float, nargs="+", default=[0.3, 0.45])
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16, of an H100")
    parser.add_argument("--nvlink-gb", type=float, default=450.0, help="GB/s of a GPU, one way")
    parser.add_argument("--nic-gbit", type=float, default=400.0, help="Gb/s of a card, one way")
    parser.add_argument("--latency-us", type=float, default=50.0, help="of a small collective")
    parser.add_argument("--nics", type=int, nargs="+", default=[1, 8], help="cards of a node")
    settings = parser.parse_args()
    rows = [
        predict(
            preset,
            strategy,
            Cluster(
                gpus=settings.gpus,
                nvlink=settings.nvlink_gb * 1e9,
                nics=nics,
                nic=settings.nic_gbit * 1e9 / 8,
                peak=settings.peak_tflops * 1e12,
                latency=settings.latency_us * 1e-6,
            ),
            settings.regions,
            settings.mfu,
        )
        for preset in settings.presets
        for strategy in settings.strategies
        for nics in settings.nics
    ]
    print_table(Console(width=120), rows, settings)
    print(json.dumps({"settings": vars(settings), "rows": rows}))


if __name__ == "__main__":
    main()
