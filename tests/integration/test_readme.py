"""Every command of the README works as it stands there, on data that is small enough."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_clip import TINY_CLIP, write_clip

from tap_platform.cli import tap
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import read_status

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()
SMALL = """model.image_size=64 model.window_size=2 training.max_steps=2 schedule.warmup_steps=0
 checkpoint.every_steps=1
 evaluation.images=4 evaluation.final_images=4 evaluation.pictures=2"""
SMALL_SCENES = "data.train_scenes=16 data.val_scenes=4 data.scene_size=64"
SMALL_PIPELINE = """all.training.max_steps=2 all.schedule.warmup_steps=0
 all.evaluation.final_images=4 all.evaluation.pictures=2
 all.data.train_scenes=16 all.data.val_scenes=4 all.scale.workers=1 all.data.reader_tasks=0
 all.evaluation.page=false evaluate.evaluate.images=2"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands():
    lines = "".join(blocks("sh")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A small CLIP model."""
    return write_clip(tmp_path_factory.mktemp("clip"), TINY_CLIP)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A COCO-format folder of eight images with one square each."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    square = [16, 16, 48, 16, 48, 40, 16, 40]
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{number}.jpg")
    record = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in range(8)],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": 1,
                "iscrowd": 0,
                "area": 768,
                "bbox": [16, 16, 32, 24],
                "segmentation": [square],
            }
            for n in range(8)
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "annotations.json").write_text(json.dumps(record))
    return folder


def test_ci_runs_the_commands_that_set_up():
    made = [words for words in commands() if words[0] == "make"]
    ci = (REPOSITORY / ".ci" / "run").read_text()
    assert made == [["make", "demo"], ["make", "test"]]
    assert all(" ".join(words) in ci for words in made)


@pytest.mark.usefixtures("ray_cluster")
def test_every_verb_does_what_the_readme_says(coco, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("jobs", "sweeps"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    verbs = [words[1:] for words in commands() if words[0] != "make"]
    assert len({words[0] for words in verbs}) == 13
    # Where `make demo` is left out, what looks at all runs waits until there are some.
    verbs.sort(key=lambda words: words[0] == "dashboard" or "--since" in words)
    for words in verbs:
        line = [teacher if word == "TEACHER" else word for word in words]
        run_verb([word.replace("PATH/TO/COCO", str(coco)) for word in line], coco)
    run_predictor_example(coco)
    assert {read_status(run.status).state for run in RunDirectory.all("runs")} == {"finished"}
    assert (tmp_path / "data/more_scenes/train/index.json").exists()
    assert (tmp_path / "data/my_coco-priors/val/index.json").exists()


def newest_run():
    return max(RunDirectory.all("runs"), key=lambda run: run.path.stat().st_mtime).path


def run_verb(words, coco):
    if words[0] == "run":
        words = [*words, *SMALL_PIPELINE.split()]
    if words[0] == "train" and "RUN" not in words:
        words = [*words, *SMALL.split(), *(SMALL_SCENES.split() if "coco" not in words[1] else [])]
    stands_for = {"RUN": newest_run, "IMAGE": lambda: coco / "images" / "0.jpg"}
    words = [str(stands_for[word]()) if word in stands_for else word for word in words]
    outcome = CliRunner().invoke(tap, words, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output


def run_predictor_example(coco):
    example = blocks("python")[0].replace("RUN", str(newest_run()))
    names = {}
    exec(example.replace("IMAGE", str(coco / "images" / "0.jpg")), names)
    assert names["prediction"].masks.shape == (1, 48, 64)


def test_the_example_of_tensors_runs(capsys):
    example = blocks("python")[1]
    exec(example, {})
    assert "torch.Size([1, 4, 64, 64])" in capsys.readouterr().out
