"""A job's data and storage are refused before anything is scheduled, with a message for people."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from data_samples import jpeg, sample

from datamodules.shards.writer import ShardWriter
from datamodules.storage import remove_tree
from datamodules.vocabulary import Vocabulary
from tap_platform.config.load import validate_job
from tap_platform.launch.data_sets import data_folder
from tap_platform.launch.prepare import check_data, prepare_data
from tap_platform.launch.train import create_run, resume_run


def make_job(folder, **data):
    return validate_job(
        {
            "name": "small",
            "storage": str(folder / "runs"),
            "model": {"preset": "tiny", "concept_dim": 4},
            "data": {"source": "shards", "path": str(folder / "set"), "partitions": 4, **data},
            "training": {"max_steps": 2, "global_batch": 4},
            "evaluation": {"final_images": 0},
        },
        where="small",
    )


def write_set(folder, train=8, val=2, dim=4):
    for split, count in (("train", train), ("val", val)):
        with ShardWriter(folder / "set" / split, 4) as writer:
            for number in range(count):
                writer.write(sample(f"{split}{number}", seed=number, dim=dim))
    vocabulary = Vocabulary.from_names(("cat", "dog"), dim, "category_names")
    vocabulary.save(folder / "set/vocabulary.safetensors")


def write_coco(folder, width=64, height=48, **changes):
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10.0, 5.0, 40.0, 35.0],
        "segmentation": [[10.0, 5.0, 50.0, 8.0, 30.0, 40.0]],
        **changes,
    }
    record = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": width, "height": height}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "coco/images").mkdir(parents=True)
    (folder / "coco/images/1.jpg").write_bytes(jpeg(height, width))
    (folder / "coco/annotations.json").write_bytes(orjson.dumps(record))
    return {"source": "coco", "path": str(folder / "coco"), "shards": str(folder / "set")}


def refused(folder, message, **data):
    """The run is refused and leaves no trace in the storage."""
    with pytest.raises(ValueError, match=message):
        create_run(make_job(folder, **data))
    assert not (folder / "runs").exists()


def test_a_good_set_is_taken_and_the_run_tells_its_config(tmp_path):
    write_set(tmp_path)
    job = make_job(tmp_path)
    run = create_run(job)
    assert validate_job(json.loads(run.config.read_text()), "config.json") == job
    assert json.loads(run.plan.read_text())["identity"] == job.identity


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("", "no such folder of shards: .*set/train"),
        ("train", "no such folder of shards: .*set/train"),
        ("val", "no such folder of shards: .*set/val"),
        ("train/index.json", r"index\.json is missing: index the shards"),
        ("train/samples.npy", r"samples\.npy is missing: index the shards"),
        ("vocabulary.safetensors", r"vocabulary\.safetensors holds no vocabulary"),
    ],
)
def test_what_is_missing_is_named(tmp_path, gone, message):
    write_set(tmp_path)
    (tmp_path / "set" / gone).rename(tmp_path / "elsewhere")
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train": 0}, "the data set is empty: its shards hold no sample"),
        ({"val": 0}, "set/val holds no sample: hold some images out"),
        ({"train": 3}, r"a global batch of 4 samples is more than an epoch has \(3\)"),
    ],
)
def test_empty_and_small_sets_are_refused(tmp_path, counts, message):
    write_set(tmp_path, **counts)
    refused(tmp_path, message)


def test_another_concept_space_is_refused(tmp_path):
    write_set(tmp_path, dim=6)
    refused(tmp_path, "concepts of width 6, the model's concept_dim is 4: .*model.concept_dim=6")


@pytest.mark.parametrize(("masks", "priors"), [(False, False), (True, False), (False, True)])
def test_regions_that_teach_nothing_are_refused(tmp_path, masks, priors):
    write_set(tmp_path)
    with ShardWriter(tmp_path / "boxes", 4) as writer:
        for number in range(8):
            made = sample(f"train{number}", seed=number)
            made.priors = made.priors if priors else None
            for each in made.regions:
                each.segmentation = each.segmentation if masks else None
            writer.write(made)
    remove_tree(tmp_path / "set/train")
    (tmp_path / "boxes").rename(tmp_path / "set/train")
    if masks or priors:
        create_run(make_job(tmp_path))
    else:
        refused(tmp_path, "neither masks nor concept priors.*tap data priors .*set --teacher")


def test_more_workers_than_partitions_are_refused(tmp_path):
    write_set(tmp_path)
    job = make_job(tmp_path)
    crowded = job.model_copy(update={"scale": job.scale.replaced(workers=5)})
    with pytest.raises(ValueError, match=r"5 workers cannot share 4 .* use 4 workers at most"):
        check_data(crowded)


def test_a_storage_that_cannot_be_written_is_refused(tmp_path):
    write_set(tmp_path)
    (tmp_path / "runs").write_text("a file is in the way")
    with pytest.raises(ValueError, match=r"storage .*runs .*or choose another"):
        create_run(make_job(tmp_path))


def test_the_storage_is_looked_at_before_data_is_made(tmp_path):
    (tmp_path / "runs").write_text("a file is in the way")
    job = make_job(tmp_path, source="scenes", train_scenes=4, val_scenes=1, scene_size=64)
    with pytest.raises(ValueError, match="cannot write to the storage"):
        create_run(job)
    with pytest.raises(ValueError, match="is a URL"):
        create_run(job.model_copy(update={"storage": "s3://bucket/runs"}))
    assert not (tmp_path / "set").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody writes to")
def test_a_data_folder_that_cannot_be_written_is_refused(tmp_path):
    refused(tmp_path, "cannot write to /proc/scenes", source="scenes", path="/proc/scenes")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [99.0, 5.0, 9.0, 9.0]}, "outside the image of 48 x 64"),
        ({"segmentation": [[10.0, 5.0, 50.0, 8.0]]}, "a polygon of 2 points encloses nothing"),
        ({"width": 1, "height": 1}, "1 x 1 pixels"),
        ({"iscrowd": 1}, "no image is left to train on"),
    ],
)
def test_a_coco_folder_without_a_usable_image_is_refused(tmp_path, changes, message):
    refused(tmp_path, message, **write_coco(tmp_path, **changes))
    assert not (tmp_path / "set").exists()


def test_a_coco_folder_and_a_vocabulary_that_do_not_fit_are_refused(tmp_path):
    data = write_coco(tmp_path)
    (tmp_path / "names.txt").write_text("cab\ndog\n")
    refused(
        tmp_path,
        r"does not know the category 'cat' \(nearest: 'cab'\)",
        **data,
        vocabulary=str(tmp_path / "names.txt"),
    )
    refused(tmp_path, "No concept list 'nowhere.txt'", **data, vocabulary="nowhere.txt")
    refused(tmp_path, "no such folder: /nowhere", **{**data, "path": "/nowhere"})


def test_what_is_made_is_told_once(tmp_path, capsys):
    job = make_job(
        tmp_path, source="scenes", train_scenes=4, val_scenes=1, scene_size=64, partitions=4
    )
    prepare_data(job.data, 4)
    assert data_folder(job.data) == tmp_path / "set"
    assert "made 4 scenes to learn from, 1 held out" in capsys.readouterr().out
    prepare_data(job.data, 4)
    assert capsys.readouterr().out.strip() == ""
    check_data(job)


def test_a_resume_checks_config_and_data_again(tmp_path):
    write_set(tmp_path)
    run = create_run(make_job(tmp_path))
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="no such folder of shards"):
        resume_run(str(run.path))
    run.config.write_text('{"name": "small", "optimiser": {}}')
    with pytest.raises(ValueError, match=r"config\.json: unknown key 'optimiser'"):
        resume_run(run.name, storage=str(tmp_path / "runs"))
    assert run.attempt == 0
