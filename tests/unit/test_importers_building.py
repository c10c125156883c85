"""An import goes on where it stopped, keeps what is there, and says what differs."""

import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import orjson
import pytest
from data_samples import box_mask, jpeg, region

from datamodules.importers.building import (
    Fault,
    ImageRecord,
    ImportPlan,
    LeftOut,
    build_data_set,
    split_of,
    splits_of,
)
from datamodules.importers.coco import coco_region
from datamodules.shards.index import DataIndex
from datamodules.shards.provenance import check_ended
from datamodules.shards.reader import read_samples
from datamodules.storage import location, remove_tree
from datamodules.vocabulary import Vocabulary

VOCABULARY = Vocabulary.from_names(("cat", "dog"), 4, "category_names")
UNIT = Path(__file__).parent
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_importers_building import build_data_set, plan
def show(done, total):
    if done == 7:
        os.kill(os.getpid(), signal.SIGKILL)
build_data_set(plan(sys.argv[2]), sys.argv[3], show=show)
"""


def region_of(record, width, height):
    if record == "crowd":
        return LeftOut("crowds")
    if record == "broken":
        raise ValueError("the mask is broken")
    return region(box_mask(height, width, 4, 6, 30, 40), record)


def plan(folder, images=10, **changes):
    records = [
        ImageRecord(
            key=f"k{number}",
            split="val" if number == 4 else "train",
            image=f"{folder}/{number}.jpg",
            annotations=["cat", "dog"][: 1 + number % 2],
            file="all.json",
            identity=number,
            size=(64, 48),
        )
        for number in range(images)
    ]
    values = {"samples_per_shard": 2, "faults": [], "priors": "category_names", **changes}
    return ImportPlan(
        source="test",
        settings={"version": 1},
        records=records,
        vocabulary=VOCABULARY,
        region_of=region_of,
        **values,
    )


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(10):
        (tmp_path / f"images/{number}.jpg").write_bytes(jpeg(seed=number))
    return tmp_path / "images"


def content(folder):
    """Every file of a data set with its bytes."""
    folder = Path(folder)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "train").glob("*.tar")}


def keys(out, split="train"):
    index = DataIndex.load(f"{out}/{split}")
    return [
        raw.key
        for shard, n in enumerate(index.counts)
        for raw in read_samples(index, shard, range(n))
    ]


def test_a_kill_in_mid_import_costs_only_the_shard_at_work(tmp_path, images):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, UNIT, images, tmp_path / "out"], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    before = stamps(tmp_path / "out")
    assert list(before) != []
    assert len(before) < 5
    with pytest.raises(ValueError, match=r"is no data set yet: its making \(test\)"):
        DataIndex.load(tmp_path / "out/train")
    seen = []
    report = build_data_set(plan(images), tmp_path / "out", show=lambda *at: seen.append(at))
    assert seen[0] == (2 * len(before) + 1, 10)
    assert {name: stamps(tmp_path / "out")[name] for name in before} == before
    assert report == build_data_set(plan(images), tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    check_ended(tmp_path / "out")


def test_a_complete_import_is_kept_and_other_settings_are_named(tmp_path, images):
    first = build_data_set(plan(images), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    seen = []
    assert build_data_set(plan(images), tmp_path / "out", show=lambda *at: seen.append(at)) == first
    assert seen == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(ValueError, match="samples_per_shard is 2 there and 5 here"):
        build_data_set(plan(images, samples_per_shard=5), tmp_path / "out")
    other = replace(plan(images), settings={"version": 2})
    with pytest.raises(ValueError, match="version is 1 there and 2 here"):
        build_data_set(other, tmp_path / "out")


def test_a_folder_of_another_source_is_told_by_that_alone(tmp_path, images):
    build_data_set(plan(images), tmp_path / "out")
    other = replace(plan(images), source="other", settings={"version": 2})
    with pytest.raises(ValueError, match=r"\(source is test there and other here\)"):
        build_data_set(other, tmp_path / "out")


def test_settings_that_nobody_reads_are_named_only(tmp_path, images):
    build_data_set(plan(images), tmp_path / "out")
    other = replace(plan(images), settings={"version": "0" * 64})
    with pytest.raises(ValueError, match=r"\(version: not the same there and here\)"):
        build_data_set(other, tmp_path / "out")


def test_what_was_begun_with_other_settings_is_refused_too(tmp_path, images):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_data_set(plan(images), tmp_path / "out", show=stop)
    with pytest.raises(ValueError, match="version is 1 there and 2 here"):
        build_data_set(replace(plan(images), settings={"version": 2}), tmp_path / "out")


def test_what_is_left_out_is_counted_and_what_is_faulty_is_listed(tmp_path, images):
    made = plan(images, faults=[Fault("all.json", 99, 1, "no such image")])
    annotations = {1: ["crowd", "dog"], 2: ["crowd"], 3: [], 5: ["broken", "cat"], 6: ["horse"]}
    records = [
        replace(each, annotations=annotations.get(each.identity, each.annotations))
        for each in made.records
    ]
    records[7] = replace(records[7], size=(48, 64))
    report = build_data_set(replace(made, records=records), tmp_path / "out")
    assert report.left_out == {"crowds": 2, "images without regions": 3}
    assert (report.faulty_images, report.faulty_annotations) == (1, 3)
    assert report.images == {"train": 5, "val": 1}
    assert report.figures["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "out").rglob("*.tar")
    )
    lines = (tmp_path / "out/quarantine.jsonl").read_bytes().splitlines()
    assert [
        (fault["image"], fault["annotation"], fault["reason"]) for fault in map(orjson.loads, lines)
    ] == [
        (99, 1, "no such image"),
        (5, "without id", "the mask is broken"),
        (6, "without id", "the vocabulary does not know the category 'horse'"),
        (7, None, "the image has 64 x 48 pixels, its record says 48 x 64"),
    ]
    assert "left out 2 crowds, 3 images without regions, 1 faulty images, 3 f" in report.sentence()


def test_a_mended_image_is_imported_again_and_nothing_else_is_touched(tmp_path, images):
    data = (images / "3.jpg").read_bytes()
    (images / "3.jpg").write_bytes(b"GIF89a")
    (images / "8.jpg").rename(tmp_path / "8.jpg")
    first = build_data_set(plan(images), tmp_path / "out")
    assert first.faulty_images == 2
    card = (tmp_path / "out/dataset.json").stat().st_mtime_ns
    assert build_data_set(plan(images), tmp_path / "out", mend=True) == first
    assert (tmp_path / "out/dataset.json").stat().st_mtime_ns == card
    (images / "3.jpg").write_bytes(data)
    before = stamps(tmp_path / "out")
    assert build_data_set(plan(images), tmp_path / "out") == first
    report = build_data_set(plan(images), tmp_path / "out", mend=True)
    assert report.faulty_images == 1
    assert keys(tmp_path / "out") == [f"k{number}" for number in (0, 1, 2, 3, 5, 6, 7, 9)]
    changed = {name for name, stamp in stamps(tmp_path / "out").items() if before[name] != stamp}
    assert changed == {"shard-000001.tar"}
    (tmp_path / "8.jpg").rename(images / "8.jpg")
    build_data_set(plan(images), tmp_path / "out", mend=True)
    build_data_set(plan(images), tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_mending_never_loses_an_image(tmp_path, images):
    data = (images / "3.jpg").read_bytes()
    (images / "3.jpg").unlink()
    first = build_data_set(plan(images), tmp_path / "out")
    (images / "2.jpg").unlink()
    (images / "3.jpg").write_bytes(data)
    assert build_data_set(plan(images), tmp_path / "out", mend=True) == first
    assert keys(tmp_path / "out") == [f"k{number}" for number in (0, 1, 2, 5, 6, 7, 8, 9)]
    stamp = (tmp_path / "out/dataset.json").stat().st_mtime_ns
    build_data_set(plan(images), tmp_path / "out", mend=True)
    assert (tmp_path / "out/dataset.json").stat().st_mtime_ns == stamp
    (images / "2.jpg").write_bytes(jpeg(seed=2))
    build_data_set(plan(images), tmp_path / "out", mend=True)
    build_data_set(plan(images), tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_an_import_of_faults_only_leaves_nothing(tmp_path, images):
    for image in images.iterdir():
        image.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"no image is left to train on.*\n  image 0: the header"):
        build_data_set(plan(images), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_refused(tmp_path, images):
    with pytest.raises(ValueError, match="images is not empty"):
        build_data_set(plan(images), images)


def test_urls_are_read_and_written(tmp_path, images):
    root = location("memory://test-building")
    for image in images.iterdir():
        (root / "in" / image.name).write_bytes(image.read_bytes())
    report = build_data_set(plan("memory://test-building/in"), root / "out")
    assert report == build_data_set(plan(images), tmp_path / "out")
    local = content(tmp_path / "out")
    for name in ("train/shard-000002.tar", "train/samples.npy", "vocabulary.safetensors"):
        assert (root / "out" / name).read_bytes() == local[name]
    assert build_data_set(plan("memory://test-building/in"), root / "out") == report
    remove_tree(root)


def coco_plan(images):
    """The plan with a `region_of` that Ray's workers can import."""
    annotation = {"category_id": 1, "segmentation": [[10.0, 5.0, 50.0, 8.0, 30.0, 40.0]]}
    made = plan(images)
    records = [replace(each, annotations=[annotation, {"iscrowd": 1}]) for each in made.records]
    return replace(made, records=records, region_of=partial(coco_region, {1: "cat"}))


def test_ray_data_makes_the_same_bytes(tmp_path, images, ray_cluster):
    (images / "3.jpg").write_bytes(b"GIF89a")
    here = build_data_set(coco_plan(images), tmp_path / "here")
    seen = []
    there = build_data_set(
        coco_plan(images), tmp_path / "there", workers=2, show=lambda *at: seen.append(at)
    )
    assert there == here
    assert here.images == {"train": 8, "val": 1}
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert seen[-1] == (10, 10)


def test_a_mistake_in_a_ray_task_keeps_its_words(tmp_path, images, ray_cluster):
    made = coco_plan(images)
    bad = replace(made, records=[replace(each, key="a/b") for each in made.records])
    with pytest.raises(ValueError, match="'a/b' is empty, or holds a dot or a slash"):
        build_data_set(bad, tmp_path / "out", workers=1)


def test_splits_depend_on_keys_only_and_are_never_one_sided():
    keys = [str(number) for number in range(1000)]
    splits = splits_of(keys, 0.2)
    assert splits == {key: split_of(key, 0.2) for key in keys}
    assert 150 < sum(split == "val" for split in splits.values()) < 250
    for share in (0.00001, 0.99999):
        assert set(splits_of(keys[:5], share).values()) == {"train", "val"}
    assert set(splits_of(keys[:5], 0).values()) == {"train"}
    assert splits_of(["only"], 0.5) == {"only": "train"}
