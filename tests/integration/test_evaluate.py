"""`tap eval` through Ray: the same numbers as in this process, and the run knows them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console
from saved_weights import save_weights

from datamodules.vocabulary import Vocabulary
from tap_platform.config.job import JobConfig
from tap_platform.launch.run_evaluation import EvaluationSettings, run_evaluation
from tap_platform.launch.train import create_run
from tap_platform.models import Tap
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.metrics import read_metrics

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]
SUITES = ("instances", "classification", "prompts")


def coco_folder(folder):
    """Six images with two squares each."""
    draw = np.random.default_rng(0)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for image in range(1, 7):
        pixels = draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        images.append({"id": image, "file_name": f"{image}.png", "width": 64, "height": 48})
        for category in (1, 2):
            left, top, side = (int(draw.integers(*ends)) for ends in ((0, 40), (0, 24), (8, 24)))
            mask = np.zeros((48, 64), np.uint8, order="F")
            mask[top : top + side, left : left + side] = 1
            pixels[mask > 0] = (250, 100 * category, 0)
            encoded = coco_mask.encode(mask)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image,
                    "category_id": category,
                    "bbox": coco_mask.toBbox(encoded).tolist(),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {**encoded, "counts": encoded["counts"].decode()},
                }
            )
        Image.fromarray(pixels).save(folder / "images" / f"{image}.png")
    categories = [{"id": 1, "name": "orange square"}, {"id": 2, "name": "yellow square"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coco_folder(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture(scope="module")
def run(make_job, tmp_path_factory) -> RunDirectory:
    """A run whose only checkpoint is as it began."""
    job: JobConfig = make_job("evaluated")
    run = create_run(job)
    torch.manual_seed(0)
    save_weights(run, 3, Tap(job.model).state_dict())
    return run


def settings(run, data, concepts, workers):
    return EvaluationSettings(
        str(run.path), SUITES, data, concepts=concepts, workers=workers, device="cpu"
    )


def test_two_workers_measure_what_one_process_does(run, data, tmp_path):
    concepts = tmp_path / "names.safetensors"
    Vocabulary.from_names(["orange square", "yellow square"], 64, "test").save(concepts)
    quiet = Console(quiet=True)
    here = run_evaluation(settings(run, data, concepts, 0), tmp_path / "here", quiet)
    there = run_evaluation(settings(run, data, concepts, 2), tmp_path / "there", quiet)
    for one, two in zip(here.results, there.results, strict=True):
        assert one.counts == two.counts
        assert one.metrics == pytest.approx(two.metrics, abs=1e-4)
    logged = {each.kind: each for each in read_metrics(run.metrics)}
    assert set(logged) >= {f"eval_{name}" for name in SUITES}
    assert logged["eval_prompts"].step == 3
    assert logged["eval_prompts"].values["1_point_oracle"] == pytest.approx(
        there.results[2].metrics["1 point (oracle)"]
    )
    assert (run.pictures / "eval-prompts-worst-step-3.png").is_file()


def test_a_broken_image_is_the_only_word_of_a_worker(run, tmp_path):
    data = coco_folder(tmp_path / "broken")
    (data / "images" / "4.png").write_bytes(b"not a picture")
    wanted = EvaluationSettings(str(run.path), ("prompts",), data, workers=1, device="cpu")
    with pytest.raises(ValueError, match=r"^image 4 cannot be evaluated: .*4\.png"):
        run_evaluation(wanted, tmp_path / "out", Console(quiet=True))
