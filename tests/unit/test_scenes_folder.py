from __future__ import annotations

import json

import numpy as np
import pytest

from datamodules.scenes import CONCEPTS, make_scenes
from datamodules.scenes import folder as scenes_folder
from datamodules.shards.index import DataIndex
from datamodules.vocabulary import Vocabulary, name_embeddings
from tap_platform.config.data import ScenesSource


def source(path, **changes):
    settings = {"train_scenes": 5, "val_scenes": 2, "scene_size": 64, **changes}
    return ScenesSource(path=str(path), **settings)


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fail(*_):
    raise AssertionError("drew scenes that it should not draw")


def test_layout_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes_folder, "SAMPLES_PER_SHARD", 2)
    calls = []
    folder = make_scenes(source(tmp_path / "new" / "scenes"), 64, lambda *call: calls.append(call))
    assert calls == [(done, 7) for done in range(1, 8)]
    assert [len(DataIndex.load(folder / split)) for split in ("train", "val")] == [5, 2]
    assert len(list((folder / "train").glob("*.tar"))) == 3
    vocabulary = Vocabulary.load(folder / "vocabulary.safetensors")
    assert (vocabulary.names, vocabulary.kind) == (CONCEPTS, "scenes oracle")
    np.testing.assert_array_equal(vocabulary.embeddings, name_embeddings(CONCEPTS, 64))
    record = json.loads((folder / "dataset.json").read_text())
    assert record["source"] == "scenes"
    assert record["indexes"]["train"] == DataIndex.load(folder / "train").sha256


def test_same_settings_same_bytes(tmp_path):
    first, second = (make_scenes(source(tmp_path / name), 64) for name in "ab")
    assert files_of(first) == files_of(second)


def test_made_once_and_kept(tmp_path):
    folder = make_scenes(source(tmp_path / "scenes"), 64)
    before = files_of(folder)
    assert make_scenes(source(tmp_path / "scenes"), 64, fail) == folder
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("changes", "dim", "message"),
    [
        ({"scene_seed": 1}, 64, "scene_seed is 0 there and 1 here"),
        ({"train_scenes": 6}, 64, "train_scenes is 5 there and 6 here"),
        ({}, 32, "concept_dim is 64 there and 32 here"),
    ],
)
def test_other_settings_are_refused(tmp_path, changes, dim, message):
    make_scenes(source(tmp_path / "scenes"), 64)
    with pytest.raises(ValueError, match=f"{message}.*choose another folder"):
        make_scenes(source(tmp_path / "scenes", **changes), dim, fail)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"source": "coco", "settings": {}}', "source is coco there and scenes here"),
        ("{", "cannot be read"),
    ],
)
def test_folder_of_something_else_is_refused(tmp_path, record, message):
    (tmp_path / "dataset.json").write_text(record)
    with pytest.raises(ValueError, match=message):
        make_scenes(source(tmp_path), 64, fail)


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="not empty"):
        make_scenes(source(tmp_path), 64, fail)


def test_no_place_to_write_is_told_before_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write"):
        make_scenes(source(tmp_path / "file" / "scenes"), 64, fail)


def test_nothing_is_left_of_a_broken_off_run(tmp_path):
    def interrupt(done, _):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_scenes(source(tmp_path / "scenes"), 64, interrupt)
    assert list(tmp_path.iterdir()) == []
