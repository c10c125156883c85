"""A CLIP teacher that looks at every region: what readers cost, and how busy they keep it.

    python tests/perf/teacher.py [--images 48 --layers 4] [--quick]

Shards are like SA-1B's (1500 x 2250, 60-100 masks); the teacher is a small CLIP model with random
weights, 224 pixels wide, on the CPU.

crops      CPU ms an image for all its crops: ours, and the plain way (pycocotools' full masks,
           Pillow's composite, crop, resize and paste); both give the same pixels
teacher    regions a second that the teacher embeds alone, from crops that are there already
here       `tap data priors` in one process, where reading and embedding take turns
T x R      the same with T teachers and R readers in Ray

Of each run: regions and images a second, and the share of time that teachers waited for work. The
last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np
import ray
import sa1b_like
from machine import cpu_seconds, machine
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table
from tiny_clip import TINY_CLIP, write_clip

from datamodules.priors.crops import CropRule, crop_regions
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import RawSample, decode_annotation
from tap_platform.config.priors import PriorsConfig
from tap_platform.launch.prior_tasks import TeacherServer, TeacherSpec
from tap_platform.launch.priors import make_priors
from tap_platform.launch.ray_session import start_ray

RULE = CropRule(224, (123, 117, 104), 0.0, False, "aspect", "bicubic")
SAMPLES_PER_SHARD = 4
PLACES = ((1, 1), (1, 2), (1, 3))
"""Teachers and readers."""


def small_clip(layers: int) -> dict[str, Any]:
    """A CLIP model of the teacher's picture size whose image tower has that many layers."""
    vision = {"image_size": 224, "layers": layers, "width": 192, "head_width": 64, "patch_size": 32}
    return {**TINY_CLIP, "embed_dim": 128, "vision_cfg": vision}


def plain_crops(raw: RawSample) -> list[NDArray[np.uint8]]:
    """All crops of a sample, as one would write it with the usual libraries."""
    picture = Image.open(io.BytesIO(raw.image)).convert("RGB")
    empty = Image.new("RGB", picture.size, RULE.colour)
    crops = []
    for each in decode_annotation(raw.annotation).regions:
        assert each.segmentation is not None
        mask = coco_mask.decode(each.segmentation)
        left, top, wide, high = map(int, coco_mask.toBbox(each.segmentation))
        masked = Image.composite(picture, empty, Image.fromarray(mask * 255))
        crop = masked.crop((left, top, left + wide, top + high))
        scale = RULE.size / max(wide, high)
        sides = [max(1, int(side * scale + 0.5)) for side in (wide, high)]
        canvas = Image.new("RGB", (RULE.size, RULE.size), RULE.colour)
        resized = crop.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
        canvas.paste(resized, ((RULE.size - sides[0]) // 2, (RULE.size - sides[1]) // 2))
        crops.append(np.asarray(canvas))
    return crops


def crop_costs(samples: list[RawSample]) -> dict[str, float]:
    """CPU ms an image of both ways, and the largest difference between their pixels."""
    difference, results = 0, {}
    crop_regions(samples[0], RULE)  # compiles
    for name, way in (("ours", lambda raw: crop_regions(raw, RULE)), ("plain", plain_crops)):
        begun = cpu_seconds()
        made = [way(raw) for raw in samples]
        results[name] = 1000 * (cpu_seconds() - begun) / len(samples)
        if name == "ours":
            first = made[0]
        else:
            pairs = zip(first, made[0], strict=True)
            difference = max(
                int(np.abs(a.astype(int) - b).max()) for a, b in pairs if a is not None
            )
    return {**results, "plain_to_ours": results["plain"] / results["ours"], "pixels": difference}


def alone(teacher: str, samples: list[RawSample], batch: int) -> float:
    """Regions a second of the teacher with nobody to wait for."""
    server = TeacherServer(TeacherSpec(teacher, None, "cpu", "fp32"))
    crops = [crop for raw in samples for crop in crop_regions(raw, RULE) if crop is not None]
    full = np.stack(crops[:batch])
    server.embed(full, 0)
    begun, rounds = time.perf_counter(), 4
    for _ in range(rounds):
        server.embed(full, 0)
    return rounds * len(full) / (time.perf_counter() - begun)


def run(data: Path, config: PriorsConfig, teachers: int, readers: int) -> dict[str, float]:
    """Make the priors anew; what the teachers say of their work."""
    with tempfile.TemporaryDirectory() as out:
        quiet = Console(file=io.StringIO())
        place = str(Path(out) / "priors")
        work = make_priors(str(data), config, place, teachers, readers, "cpu", quiet).work
    return {
        "regions_per_second": work.regions / work.seconds,
        "images_per_second": work.images / work.seconds,
        "teacher_waits": work.wait_share,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--layers", type=int, default=4, help="of the teacher's image tower")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="few images, to try the script")
    options = parser.parse_args()
    images = 8 if options.quick else options.images
    sa1b_like.SAMPLES_PER_SHARD = SAMPLES_PER_SHARD
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "sa1b"
        sa1b_like.make_data_set(data, images, lambda done, of: None)
        teacher = write_clip(Path(folder) / "teacher", small_clip(options.layers))
        index = DataIndex.load(data / "train")
        samples = list(read_samples(index, 0, range(SAMPLES_PER_SHARD)))
        config = PriorsConfig(teacher=teacher, batch=options.batch, concepts="coco_80")
        result: dict[str, Any] = {
            "machine": machine(),
            "crops": crop_costs(samples),
            "teacher": alone(teacher, samples, options.batch),
            "here": run(data, config, 0, 0),
        }
        start_ray(cpus=max(map(sum, PLACES)))
        try:
            for teachers, readers in PLACES:
                result[f"{teachers} x {readers}"] = run(data, config, teachers, readers)
        finally:
            ray.shutdown()
    show(console, result)
    print(json.dumps(result))


def show(console: Console, result: dict[str, Any]) -> None:
    """The same as a table."""
    crops = result["crops"]
    console.print(
        f"crops of an image: {crops['ours']:.0f} ms of CPU, the plain way {crops['plain']:.0f} ms"
        f" ({crops['plain_to_ours']:.1f} times)"
    )
    console.print(f"the teacher alone: {result['teacher']:.0f} regions/s")
    table = Table("teachers x readers", "regions/s", "images/s", "teacher waits")
    for name, values in result.items():
        if name == "here" or " x " in name:
            table.add_row(
                name,
                f"{values['regions_per_second']:.0f}",
                f"{values['images_per_second']:.1f}",
                f"{values['teacher_waits']:.0%}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
