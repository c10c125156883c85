from __future__ import annotations

import json
import pickle
from functools import partial

import numpy as np
import pytest
from PIL import Image
from test_prediction_predictor import NAMES
from toy_model import ToyTap

from tap_platform.launch import predict
from tap_platform.launch.weights_source import Loaded


@pytest.fixture
def tap(tap, monkeypatch, tmp_path):
    """Run `tap predict WEIGHTS` with a toy; exit status, output and errors."""
    loaded = Loaded(ToyTap(), NAMES, None, "a toy")
    monkeypatch.setattr(predict, "load_weights", lambda source: loaded)
    monkeypatch.chdir(tmp_path)
    return partial(tap, "predict", "toy")


@pytest.fixture
def images(tmp_path):
    """A folder of three images, two of which have the same stem."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "b.png"):
        Image.new("RGB", (64, 48), (9, 99, 9)).save(folder / name)
    return folder


def annotations(path):
    return json.loads(path.read_text())["annotations"]


def test_each_box_is_a_region(tap, images, tmp_path):
    status, output, errors = tap(
        images / "a.jpg", "--box", "1,1,20,20", "--box", "40,1,60.5,20", "--out", "here/there"
    )
    assert (status, errors) == (0, "")
    assert "a toy: 8 concepts, no captions" in output
    assert "1 of 1 images, 2 regions: here/there" in output
    found = annotations(tmp_path / "here/there/a.json")
    assert [each["category"] for each in found] == ["a", "b"]
    assert [each["prompt"]["box"] for each in found] == [[1, 1, 20, 20], [40, 1, 60.5, 20]]
    assert Image.open(tmp_path / "here/there/a.png").format == "PNG"


def test_all_points_together_are_one_region(tap, images, tmp_path):
    assert tap(images / "a.jpg", "--point", "1,2", "--point", "30,4,0", "--box", "0,0,9,9")[0] == 0
    (found,) = annotations(tmp_path / "predictions/a.json")
    assert found["prompt"] == {"box": [0, 0, 9, 9], "points": [[1, 2, 1], [30, 4, 0]]}


def test_everything_in_a_folder(tap, images, tmp_path):
    status, output, _ = tap(images, "--grid", 4)
    assert status == 0
    assert "3 of 3 images" in output
    outputs = {f"{stem}.{kind}" for stem in ("a", "b", "b-2") for kind in ("json", "png")}
    assert {file.name for file in (tmp_path / "predictions").iterdir()} == outputs
    assert len(annotations(tmp_path / "predictions/b-2.json")) >= 2
    assert "lower --min-iou" in tap(images / "a.jpg", "--grid", 4, "--min-iou", 1)[1]
    assert annotations(tmp_path / "predictions/a.json") == []


def test_a_bad_image_does_not_stop_the_others(tap, images, tmp_path):
    (images / "aa.jpg").write_text("milk")
    status, output, errors = tap(images, "--point", "1,1")
    assert status == 2
    assert "3 of 4 images, 3 regions" in output
    assert "1 of 4 images:" in errors
    assert "aa.jpg is no image (it starts with 'milk')" in errors
    assert not (tmp_path / "predictions/aa.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no prompt: give --box, --point or --grid"),
        (["--box", "a,b,c,d"], "--box a,b,c,d: expected left,top,right,bottom in numbers"),
        (["--box", "1,2,3"], "--box 1,2,3: expected left,top,right,bottom"),
        (["--box", "9,9,1,1"], "ends before it begins"),
        (["--point", "1;2"], "--point 1;2: expected x,y,label in numbers"),
        (["--point", "1,2,7"], "labels are 1 (foreground), 0 (background)"),
        (["--point", "nan,2"], "NaN or infinity"),
        (["--grid", "0"], "Invalid value for '--grid'"),
        (["--grid", "4", "--point", "1,1"], "--grid asks about everything"),
        (["--point", "1,1", "--tokenizer", "nowhere"], "nowhere cannot be read"),
        (["--point", "1,1", "--tokenizer", "shipped"], "has 32000 pieces"),
        (["--point", "1,1", "--concepts", "images/a.jpg"], "holds no vocabulary"),
    ],
)
def test_mistakes_are_told_in_words(tap, images, tmp_path, arguments, told):
    status, _, errors = tap("images/a.jpg", *arguments)
    assert status == 2
    assert told in errors
    assert not (tmp_path / "predictions").exists()


def test_images_must_be_there(tap):
    assert "there is no image nowhere" in tap("nowhere", "--point", "1,1")[2]
    assert "Missing argument" in tap()[2]


def test_concepts_can_be_others(tap, images, tmp_path):
    others = type(NAMES)(("x",), np.eye(1, 8, dtype=np.float32), "others")
    others.save(tmp_path / "others.safetensors")
    released = [100 * np.eye(8, dtype=np.float32), [f"name {letter}" for letter in NAMES.names]]
    (tmp_path / "released.pkl").write_bytes(pickle.dumps(released))
    for file, name in (("others.safetensors", "x"), ("released.pkl", "name a")):
        assert tap("images/a.jpg", "--point", "1,1", "--concepts", file)[0] == 0
        assert annotations(tmp_path / "predictions/a.json")[0]["category"] == name
