"""Where the time of a caption evaluation goes: the image encoder, the image decoder, the words.

    python tests/perf/captioning.py [--preset vit_b --image-size 1024 --images 20 --regions 50]
        [--words 38] [--device cuda --precision bf16] [--quick]

Every image is encoded once, its boxes are answered together, their semantic tokens are described
64 at a time by greedy decoding with kept keys and values, as `tap eval --suite captions` does. The
end never comes, so that each caption has all `--words`: the most is 38, those of Visual Genome have
some eight. Shares are of all three times. The last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from side_by_side import progress
from torch import nn
from training_step import random_batch

from datamodules.stream.batch import RegionBatch
from tap_platform.config.model import PresetName, TapConfig
from tap_platform.models import Tap
from tap_platform.models.text_decoder import END
from tap_platform.objectives.prompts import box_prompts
from tap_platform.prediction.captions import CAPTIONS_AT_ONCE

T = TypeVar("T")


class Clock:
    """Seconds by the name of what was done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def time(self, name: str, work: Callable[[], T]) -> T:
        """What the work returns; its time is added to the name's."""
        begun = time.perf_counter()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += time.perf_counter() - begun
        return result


def wordy_model(config: TapConfig, device: str) -> Tap:
    """A random model whose captions do not end."""
    torch.manual_seed(0)
    model = Tap(config).to(device).eval()
    for parameter in model.text_decoder.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1)
    with torch.no_grad():
        model.text_decoder.transformer.text_proj.weight[END] = 0
    return model


def describe(model: Tap, batch: RegionBatch, words: int, clock: Clock) -> int:
    """Describe all regions of one image; how many words each of them got."""
    embedding = clock.time("encoder", lambda: model.encode(model.normalize(batch.pixels)))
    boxes = box_prompts(batch.boxes)
    answers = clock.time(
        "decoder",
        lambda: model.decode(embedding, boxes.points, boxes.labels, batch.image_index),
    )
    parts = answers.semantic_tokens[:, 0].split(CAPTIONS_AT_ONCE)
    rows = clock.time("words", lambda: [model.caption(part, words) for part in parts])
    return rows[0].shape[1]


@torch.inference_mode()
def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Seconds and shares of the three parts."""
    config = TapConfig.preset(options.preset, image_size=options.image_size)
    model = wordy_model(config, options.device)
    batch = random_batch(config, 1, options.regions).to(options.device)
    clock = Clock(torch.device(options.device))
    with (
        torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"),
        progress(console) as bar,
    ):
        describe(model, batch, options.words, Clock(clock.device))
        for _ in bar.track(range(options.images), description="images"):
            words = describe(model, batch, options.words, clock)
    whole = sum(clock.seconds.values())
    return {
        "regions": options.images * options.regions,
        "words": words,
        "seconds": dict(clock.seconds),
        "shares": {name: seconds / whole for name, seconds in clock.seconds.items()},
        "settings": vars(options),
        "machine": machine(),
    }


def main() -> None:
    """Measure, show, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", choices=get_args(PresetName), default="vit_b")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--regions", type=int, default=50)
    parser.add_argument("--words", type=int, default=38)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.preset, options.image_size, options.images = "tiny", 256, 2
    console = Console(stderr=True)
    result = measure(options, console)
    table = Table(title=f"{result['regions']} captions of {result['words']} words")
    for column in ("", "seconds", "share"):
        table.add_column(column, justify="right" if column else "left")
    for name, share in result["shares"].items():
        table.add_row(name, f"{result['seconds'][name]:.2f}", f"{100 * share:.0f} %")
    console.print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
