"""The decoders of TAP against plain ones, which repeat all work for every prompt and word.

    python tests/perf/decoder.py [--preset vit_b --prompts 64 --device cuda] [--quick]

forward   answers to prompts of one image from its embedding, without gradients
training  forward and backward of the image decoder for the same prompts
caption   the likeliest words of as many regions; the plain way keeps no keys and values, and
          neither way meets an end, so that both give all words

Both ways share their weights, and their answers are compared first. They take turns, several rounds
long, so that a change of the machine's load meets both; times are the best of the rounds, for load
only adds. Memory is the peak above the model and its inputs at rest. The last line is everything as
JSON; each `_to_plain` is the product's share of the plain way.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import plain_decoder
import torch
from machine import machine
from memory import peak_bytes
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from side_by_side import progress, take_turns
from torch import Tensor, nn

from tap_platform.config.model import PresetName, TapConfig
from tap_platform.models import RegionOutput, Tap
from tap_platform.models.text_decoder import END

Way = Callable[[], None]
Decode = Callable[[Tap, Tensor, Tensor, Tensor, Tensor], RegionOutput]

TASKS = ("forward", "training", "caption")
PRODUCTS: dict[str, Any] = {"ours": (Tap.decode, Tap.caption)}
PRODUCTS["plain"] = (plain_decoder.decode, plain_decoder.caption)


class Questions:
    """A model with its decoders' inputs: boxes in one image, and regions to describe."""

    def __init__(self, preset: PresetName, prompts: int, words: int, device: str) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.tap = Tap(TapConfig.preset(preset)).to(self.device).eval()
        for parameter in self.tap.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1)
        with torch.no_grad():
            self.tap.text_decoder.transformer.text_proj.weight[END] = 0
        config = self.tap.config
        corners = torch.rand(prompts, 2, 2).sort(1).values * config.image_size
        grid = config.grid_size
        self.image = torch.randn(1, config.embed_dim, grid, grid, device=self.device)
        self.points = corners.to(self.device)
        self.labels = torch.tensor([[2, 3]], device=self.device).expand(prompts, -1)
        self.image_index = torch.zeros(prompts, dtype=torch.int64, device=self.device)
        self.regions = torch.randn(prompts, config.embed_dim, device=self.device)
        self.words = words

    def answer(self, decode: Decode) -> RegionOutput:
        """Answers to all prompts."""
        return decode(self.tap, self.image, self.points, self.labels, self.image_index)

    @torch.no_grad()
    def forward(self, decode: Decode) -> None:
        """Answer without gradients."""
        self.answer(decode)

    def training(self, decode: Decode) -> None:
        """Answer, and take gradients of every answer for the decoder's weights and the image."""
        self.image.requires_grad_()
        answers = self.answer(decode)
        sum(part.square().mean() for part in answers).backward()  # type: ignore[union-attr]
        self.image.requires_grad_(False).grad = None
        self.tap.zero_grad()

    def caption(self, caption: Callable[[Tap, Tensor, int], Tensor]) -> None:
        """Describe all regions."""
        caption(self.tap, self.regions, self.words)

    def synchronize(self) -> None:
        """Wait until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def ways_of(questions: Questions, task: str) -> dict[str, Way]:
    """The product's way and the plain way to do a task."""
    work = getattr(questions, task)
    return {name: partial(work, ways[task == "caption"]) for name, ways in PRODUCTS.items()}


def compare(questions: Questions) -> dict[str, float]:
    """The largest difference of each answer, and the share of words that are the same.

    It also warms both ways up; a few captions are enough for that.
    """
    with torch.no_grad():
        answers = [questions.answer(decode) for decode, _ in PRODUCTS.values()]
    errors = {
        name: (ours - plain).abs().max().item()
        for name, ours, plain in zip(RegionOutput._fields, *answers, strict=True)
    }
    ours, plain = (
        caption(questions.tap, questions.regions[:8], questions.words)
        for _, caption in PRODUCTS.values()
    )
    return {**errors, "same_words": (ours == plain).float().mean().item()}


def measure(questions: Questions, task: str, rounds: int, bar: Progress) -> dict[str, Any]:
    """Milliseconds and peak megabytes of both ways, and the product's share of the plain way's."""
    ways = ways_of(questions, task)
    device = questions.device
    peaks = {name: partial(peak_bytes, way, device) for name, way in ways.items()}
    times = {name: partial(_milliseconds, way, questions) for name, way in ways.items()}
    peak = {n: min(v) / 1e6 for n, v in take_turns(peaks, 1, bar, f"{task}, memory").items()}
    best = {n: min(v) for n, v in take_turns(times, rounds, bar, f"{task}, round").items()}
    return {
        "ms": best,
        "peak_mb": peak,
        "ms_to_plain": best["ours"] / best["plain"],
        "peak_to_plain": peak["ours"] / peak["plain"],
    }


def _milliseconds(work: Way, questions: Questions) -> float:
    questions.synchronize()
    start = time.perf_counter()
    work()
    questions.synchronize()
    return 1000 * (time.perf_counter() - start)


def print_table(console: Console, figures: dict[str, Any], settings: argparse.Namespace) -> None:
    """Print both ways side by side."""
    table = Table(title=f"{settings.preset}, {settings.prompts} prompts or regions")
    table.add_column("task")
    for column in ("ms", "plain ms", "share", "peak MB", "plain MB", "share"):
        table.add_column(column, justify="right")
    for task, figure in figures.items():
        cells: list[str] = []
        for name, share in (("ms", "ms_to_plain"), ("peak_mb", "peak_to_plain")):
            cells += [f"{figure[name][way]:.0f}" for way in ("ours", "plain")]
            cells.append(f"{figure[share]:.2f}")
        table.add_row(task, *cells)
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=get_args(PresetName), default="vit_b")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (default: cpu)")
    parser.add_argument("--prompts", type=int, default=64, help="and regions (default: 64)")
    parser.add_argument("--words", type=int, default=38, help="words of a caption (default: 38)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each task (default: 3)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument(
        "--quick", action="store_true", help="a smoke check: a tiny model, 8 prompts, one round"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.preset, arguments.prompts, arguments.rounds = "tiny", 8, 1
    return arguments


def main() -> None:
    """Build the model, compare, measure and print."""
    settings = parse_arguments()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    console = Console(width=100)
    questions = Questions(settings.preset, settings.prompts, settings.words, settings.device)
    differences = compare(questions)
    with progress(console) as bar:
        figures = {t: measure(questions, t, settings.rounds, bar) for t in settings.tasks}
    print_table(console, figures, settings)
    threads = {"threads": torch.get_num_threads()}
    print(
        json.dumps(
            {**figures, "differences": differences, **vars(settings), **threads, **machine()}
        )
    )


if __name__ == "__main__":
    main()
