"""Partial fine-tuning beside full fine-tuning: samples a second, and memory.

    python tests/perf/fine_tuning.py [--preset vit_b --image-size 1024 --images 1 --regions 64]
        [--steps 1 --rounds 3] [--device cuda --precision bf16] [--quick]

Both are the product's own recipe in Lightning's loop, on the same made-up images and phrases and in
the same process; they take turns, several rounds long, so that a change of the machine's load meets
both. Times are the best of the rounds, for load only adds. Memory is the peak of a step above what
lies there before it, optimizer state and gradients included: partial fine-tuning keeps no
activations of the image encoder, and no state but the text decoder's.

The last line is everything as JSON; `samples_ratio` is partial over full.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from machine import machine
from memory import peak_bytes
from rich.console import Console
from rich.table import Table
from side_by_side import progress, take_turns
from torch.utils.data import DataLoader, IterableDataset
from training_step import random_batch

from datamodules.stream.batch import RegionBatch
from tap_platform.config.job import JobConfig
from tap_platform.config.load import validate_job
from tap_platform.config.model import PresetName
from tap_platform.recipes.tap_caption import TapCaption
from tap_platform.text.tokenizer import Tokenizer, shipped_model
from tap_platform.text.training import train_tokenizer
from tap_platform.training.strategies import PRECISIONS

PHRASES = (
    "a man wearing a blue shirt",
    "the wheel of the bicycle",
    "white clouds in the sky",
    "a brown dog lying on the green grass",
    "sign on the pole",
    "the woman is holding an umbrella in her hand",
)
"""As long as those of Visual Genome: some five words."""


RECIPES = {"partial": "text_decoder", "full": "all"}


class OneBatch(IterableDataset[RegionBatch]):
    """The same batch again and again."""

    def __init__(self, batch: RegionBatch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[RegionBatch]:
        while True:
            yield self.batch


class StepClock(Callback):
    """When each step ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time, once the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """The shortest step, without the first one, which makes the optimizer's state."""
        return min(later - sooner for sooner, later in pairwise(self.ends))


class Way:
    """One kind of fine-tuning on one batch."""

    def __init__(self, job: JobConfig, tokenizer: Path, batch: RegionBatch, device: str) -> None:
        torch.manual_seed(0)
        names = F.normalize(torch.randn(2560, job.model.concept_dim), dim=1)
        self.job, self.batch, self.device = job, batch, torch.device(device)
        self.recipe = TapCaption(job, names, Tokenizer(tokenizer))

    def train(self, steps: int) -> float:
        """Seconds of the shortest of so many steps."""
        clock = StepClock(self.device)
        trainer = Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision=PRECISIONS[self.job.training.precision],
            max_steps=steps + 1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        trainer.fit(self.recipe, DataLoader(OneBatch(self.batch), batch_size=None))
        return clock.seconds

    def peak(self) -> int:
        """Bytes that two steps take, above the model at rest."""
        self.recipe.zero_grad()
        return peak_bytes(self._two_steps, self.device)

    def _two_steps(self) -> None:
        self.train(1)


def ways_of(options: argparse.Namespace, folder: Path) -> dict[str, Way]:
    """Partial and full fine-tuning of one model, on one batch."""
    tokenizer = folder / "tokenizer.model"
    model = model_of(options)
    if options.quick:
        train_tokenizer(PHRASES * 20, model["vocab_size"], tokenizer)
    else:
        shutil.copy(shipped_model(), tokenizer)
    jobs = {way: _job(model, way, options) for way in RECIPES}
    batch = random_batch(jobs["full"].model, options.images, options.regions)
    regions = len(batch.masks)
    phrases = [(PHRASES[number % len(PHRASES)],) for number in range(regions)]
    batch = replace(batch, phrases=phrases, step_regions=regions, step_phrased=regions)
    batch = batch.to(options.device)
    return {way: Way(job, tokenizer, batch, options.device) for way, job in jobs.items()}


def model_of(options: argparse.Namespace) -> dict[str, Any]:
    """Sizes of the model."""
    if options.quick:
        return {"preset": "tiny", "vocab_size": 64}
    return {"preset": options.preset, "image_size": options.image_size}


def _job(model: dict[str, Any], way: str, options: argparse.Namespace) -> JobConfig:
    tree = {
        "name": way,
        "model": model,
        "recipe": {"type": "tap_caption", "train": RECIPES[way]},
        "init_from": "nothing is read here",
        "data": {"source": "shards", "path": "none", "partitions": 1},
        "training": {
            "max_steps": 10**6,
            "global_batch": options.images,
            "precision": options.precision,
            "log_every": 10**6,
        },
    }
    return validate_job(tree, where=way)


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Seconds a step and peak bytes of both ways, and their ratios."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    with tempfile.TemporaryDirectory() as folder, progress(console) as bar:
        ways = ways_of(options, Path(folder))
        turns = {name: partial(way.train, options.steps) for name, way in ways.items()}
        seconds = {
            name: min(each)
            for name, each in take_turns(turns, options.rounds, bar, "round").items()
        }
        peaks = {name: way.peak() for name, way in ways.items()}
    samples = {name: options.images / each for name, each in seconds.items()}
    return {
        "seconds_a_step": seconds,
        "samples_a_second": samples,
        "peak_bytes": peaks,
        "samples_ratio": samples["partial"] / samples["full"],
        "memory_ratio": peaks["partial"] / peaks["full"],
        "settings": vars(options),
        "machine": machine(),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """A table for people."""
    table = Table(title="fine-tuning", title_justify="left")
    for column in ("", "samples/s", "s a step", "peak above the model at rest"):
        table.add_column(column, justify="right" if column else "left")
    for way in RECIPES:
        table.add_row(
            way,
            f"{result['samples_a_second'][way]:.3g}",
            f"{result['seconds_a_step'][way]:.3g}",
            f"{result['peak_bytes'][way] / 2**20:,.0f} MiB",
        )
    console.print(table)
    console.print(
        f"partial is {result['samples_ratio']:.2f} times as fast as full, and takes"
        f" {100 * result['memory_ratio']:.0f} % of its memory"
    )


def main() -> None:
    """Measure, show, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", choices=get_args(PresetName), default="vit_b")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--regions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    options = parser.parse_args()
    console = Console(stderr=True)
    result = measure(options, console)
    show(result, console)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
