import copy
from pathlib import Path

import numpy as np
import orjson
import pytest
from data_samples import box_mask, jpeg, png, rle, smooth_image
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.importers.building import build_data_set
from datamodules.importers.coco import plan_coco
from datamodules.importers.coco_files import concept_name
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import decode_annotation, decode_priors
from datamodules.vocabulary import Vocabulary, concept_list
from tap_platform.config.sources import CocoSource

COCO_OPEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_open"
VOCABULARY = Vocabulary.from_names(("cat", "dog", "fire hydrant"), 8, "category_names")
TRIANGLE = [10.0, 5.0, 50.0, 8.0, 30.0, 40.0]


def annotation(number, image, **changes):
    values = {
        "id": number,
        "image_id": image,
        "category_id": 2,
        "bbox": [10.0, 5.0, 40.0, 35.0],
        "area": 700.0,
        "iscrowd": 0,
        "segmentation": [TRIANGLE],
    }
    return {**values, **changes}


def record(images=4):
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48}
            for number in range(images)
        ],
        "annotations": [annotation(100 + number, number) for number in range(images)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def folder(path, content=None):
    content = record() if content is None else content
    (path / "images").mkdir(parents=True)
    for number in range(4):
        (path / f"images/{number}.jpg").write_bytes(jpeg(seed=number))
    (path / "annotations.json").write_bytes(orjson.dumps(content))
    return path


def run(path, out, vocabulary=VOCABULARY, val_fraction=0.25, show=None, mend=False):
    source = CocoSource(path=str(path), val_fraction=val_fraction)
    return build_data_set(plan_coco(source, vocabulary), out, show=show, mend=mend)


def read(out, split):
    index = DataIndex.load(out / split)
    raws = [
        raw for shard, n in enumerate(index.counts) for raw in read_samples(index, shard, range(n))
    ]
    return {raw.key: raw for raw in raws}


def faults(out):
    return [orjson.loads(line) for line in (out / "quarantine.jsonl").read_bytes().splitlines()]


def quarantined(tmp_path, content):
    report = run(folder(tmp_path / "coco", content), tmp_path / "out")
    listed = faults(tmp_path / "out")
    assert report.faulty_images + report.faulty_annotations == len(listed)
    return report, listed


def test_images_keep_their_bytes_and_regions_their_meaning(tmp_path):
    seen = []
    path = folder(tmp_path / "coco")
    report = run(path, tmp_path / "out", show=lambda *state: seen.append(state))
    assert seen == [(done, 4) for done in (1, 2, 3, 4)]
    assert sum(report.images.values()) == 4
    assert report.images["val"] >= 1
    samples = {**read(tmp_path / "out", "train"), **read(tmp_path / "out", "val")}
    assert sorted(samples) == [f"{number:012d}" for number in range(4)]
    raw = samples["000000000002"]
    assert raw.image == (path / "images/2.jpg").read_bytes()
    (region,) = decode_annotation(raw.annotation).regions
    assert region.category == "dog"
    assert region.box == (10.0, 5.0, 40.0, 35.0)
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([TRIANGLE], 48, 64)))
    np.testing.assert_array_equal(coco_mask.decode(region.segmentation), expected)
    assert region.area == expected.sum()
    prior = decode_priors(raw.priors, 1, 8)
    np.testing.assert_array_equal(prior[0], VOCABULARY.embeddings[1].astype(np.float16))


def test_the_folder_tells_where_it_comes_from(tmp_path):
    run(folder(tmp_path / "coco"), tmp_path / "out")
    card = orjson.loads((tmp_path / "out/dataset.json").read_bytes())
    assert card["source"] == "coco"
    assert card["priors"] == "category_names"
    assert card["indexes"]["train"] == DataIndex.load(tmp_path / "out/train").sha256
    assert Vocabulary.load(tmp_path / "out/vocabulary.safetensors").names == VOCABULARY.names


def test_every_kind_of_mask_is_read(tmp_path):
    mask = box_mask(48, 64, 10, 5, 50, 40)
    counts = coco_mask.decode(rle(mask)).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate(([0], counts, [0]))))
    plain = np.diff(np.concatenate(([0], edges, [48 * 64]))).tolist()
    kinds = [
        [[10.0, 5.0, 50.0, 5.0, 50.0, 40.0, 10.0, 40.0]],
        {"size": [48, 64], "counts": plain},
        rle(mask),
    ]
    content = record()
    content["annotations"] = [annotation(i, i, segmentation=kind) for i, kind in enumerate(kinds)]
    crowd = annotation(9, 0, segmentation=kinds[1], iscrowd=1)
    content["annotations"].append(crowd)
    report, listed = quarantined(tmp_path, content)
    assert listed == []
    assert report.left_out == {"crowds": 1, "images without regions": 1}
    samples = {**read(tmp_path / "out", "train"), **read(tmp_path / "out", "val")}
    for raw in samples.values():
        (region,) = decode_annotation(raw.annotation).regions
        np.testing.assert_array_equal(coco_mask.decode(region.segmentation), mask)


def test_captions_become_phrases(tmp_path):
    content = record()
    content["annotations"][1]["captions"] = ["a dog", "the left dog"]
    content["annotations"][2]["caption"] = "a wet dog"
    run(folder(tmp_path / "coco", content), tmp_path / "out", val_fraction=0)
    samples = read(tmp_path / "out", "train")
    phrases = [decode_annotation(raw.annotation).regions[0].phrases for raw in samples.values()]
    assert phrases == [[], ["a dog", "the left dog"], ["a wet dog"], []]


def test_a_png_is_wrapped_as_it_is(tmp_path):
    path = folder(tmp_path / "coco")
    data = png(Image.fromarray(smooth_image()))
    (path / "images/3.jpg").write_bytes(data)
    run(path, tmp_path / "out", val_fraction=0)
    assert read(tmp_path / "out", "train")["000000000003"].image == data
    assert b"000000000003.png" in (tmp_path / "out/train/shard-000000.tar").read_bytes()


def test_the_split_depends_on_ids_only_and_is_never_one_sided(tmp_path):
    path = folder(tmp_path / "coco")
    reordered = record()
    reordered["images"].reverse()
    other = folder(tmp_path / "other", reordered)
    run(path, tmp_path / "a")
    run(other, tmp_path / "b")
    assert set(read(tmp_path / "a", "val")) == set(read(tmp_path / "b", "val"))
    for fraction in (0.0001, 0.9999):
        report = run(path, tmp_path / f"out{fraction}", val_fraction=fraction)
        assert min(report.images.values()) == 1
    assert run(path, tmp_path / "none", val_fraction=0).images == {"train": 4, "val": 0}


def test_cocos_own_layout_keeps_its_own_split(tmp_path):
    content = record()
    for split, numbers in (("train2017", (0, 1, 2)), ("val2017", (3,))):
        (tmp_path / "coco" / split).mkdir(parents=True)
        part = copy.deepcopy(content)
        part["images"] = [content["images"][n] for n in numbers]
        part["annotations"] = [content["annotations"][n] for n in numbers]
        for number in numbers:
            (tmp_path / f"coco/{split}/{number}.jpg").write_bytes(jpeg(seed=number))
        (tmp_path / "coco/annotations").mkdir(exist_ok=True)
        target = tmp_path / f"coco/annotations/instances_{split}.json"
        target.write_bytes(orjson.dumps(part))
    run(tmp_path / "coco", tmp_path / "out", val_fraction=0.5)
    assert list(read(tmp_path / "out", "val")) == ["000000000003"]
    assert len(read(tmp_path / "out", "train")) == 3


def test_an_import_that_is_there_is_kept(tmp_path):
    path, out = folder(tmp_path / "coco"), tmp_path / "out"
    first = run(path, out)
    stamp = (out / "dataset.json").stat().st_mtime_ns
    assert run(path, out) == first
    assert (out / "dataset.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"val_fraction is 0\.25 there and 0\.5 here"):
        run(path, out, val_fraction=0.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segmentation": [[10.0, 5.0, 50.0, 8.0]]}, "a polygon of 2 points encloses nothing"),
        ({"segmentation": [TRIANGLE, [1.0, 2.0, 3.0]]}, "a polygon of 1.5 points"),
        ({"segmentation": []}, "no mask"),
        ({"segmentation": [["a"] * 6]}, "finite numbers"),
        ({"segmentation": [[1e9, 5.0, 50.0, 8.0, 30.0, 40.0]]}, "leaves the image"),
        ({"segmentation": {"size": [48, 64], "counts": [1, 2]}}, "do not tell"),
        ({"segmentation": {"size": [48, 64], "counts": "garbage"}}, "do not tell"),
        ({"segmentation": {"size": [64, 48], "counts": [3072]}}, "size"),
        ({"segmentation": {"size": [48, 64], "counts": [3072]}}, "covers no pixel"),
        ({"bbox": [64.0, 5.0, 9.0, 9.0]}, "outside the image"),
        ({"bbox": [-30.0, 5.0, 20.0, 9.0]}, "outside the image"),
        ({"bbox": [10.0, 5.0, 0.0, 9.0]}, "no area"),
        ({"bbox": [10.0, 5.0, 9.0]}, "four finite numbers"),
        ({"category_id": 77}, "category_id 77 is not among the categories"),
        ({"category_id": [1]}, "category_id [1] is not among the categories"),
        ({"image_id": 77}, "image_id is not among the images"),
        ({"image_id": [1]}, "image_id is not among the images"),
    ],
)
def test_faulty_annotations_are_quarantined(tmp_path, changes, reason):
    content = record()
    content["annotations"].append(annotation(999, 1, **changes))
    report, listed = quarantined(tmp_path, content)
    assert report.faulty_annotations == 1
    assert listed[0]["annotation"] == 999
    assert reason in listed[0]["reason"]
    assert sum(report.regions.values()) == 4


@pytest.mark.parametrize(
    ("data", "changes", "reason"),
    [
        (None, {}, "1.jpg cannot be read: No such file"),
        (jpeg(1, 1), {"width": 1, "height": 1}, "1 x 1 pixels"),
        (jpeg(20, 30), {}, "30 x 20 pixels, its record says 64 x 48"),
        (b"GIF89a", {}, "neither a JPEG nor a PNG"),
        (jpeg(), {"file_name": "../1.jpg"}, "outside the folder"),
        (jpeg(), {"file_name": 1}, "no proper file_name"),
        (jpeg(), {"id": 2}, "appears twice"),
        (jpeg(), {"id": "000000000002"}, "another image has the key 000000000002"),
        (jpeg(), {"id": ""}, "id is empty"),
    ],
)
def test_faulty_images_are_quarantined(tmp_path, data, changes, reason):
    content = record()
    content["images"][1].update(changes)
    content["images"].append(content["images"].pop(1))
    path = folder(tmp_path / "coco", content)
    (path / "images/1.jpg").unlink()
    if data is not None:
        (path / "images/1.jpg").write_bytes(data)
    report = run(path, tmp_path / "out")
    assert report.faulty_images == 1
    assert sum(report.images.values()) == 3
    assert any(reason in each["reason"] for each in faults(tmp_path / "out"))


def test_an_annotation_without_id_is_no_faulty_image(tmp_path):
    content = record()
    content["annotations"].append(annotation(None, 1, segmentation=[]))
    report, listed = quarantined(tmp_path, content)
    assert (report.faulty_images, report.faulty_annotations) == (0, 1)
    assert listed[0]["annotation"] == "without id"


def test_ids_with_slashes_become_keys_and_captions_phrases(tmp_path):
    content = record()
    content["images"][1]["id"] = "train/1.a"
    for each, captions in zip(content["annotations"], ("a cat", 5, [None, "two"]), strict=False):
        each["captions"] = captions
        if each["image_id"] == 1:
            each["image_id"] = "train/1.a"
    report = run(folder(tmp_path / "coco", content), tmp_path / "out")
    assert (report.faulty_images, report.faulty_annotations) == (0, 0)
    raws = read(tmp_path / "out", "train") | read(tmp_path / "out", "val")
    phrases = {
        key: orjson.loads(raw.annotation)["annotations"][0].get("phrases", [])
        for key, raw in raws.items()
    }
    assert list(phrases.pop("train-1-a")) == []
    assert sorted(map(list, phrases.values())) == [[], ["a cat"], ["two"]]


def broken(tmp_path, content):
    path = folder(tmp_path / "coco")
    (path / "annotations.json").write_bytes(content)
    return path


def nothing_is_written(tmp_path, path, message, **options):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        run(path, tmp_path / "out", **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_folders_are_named(tmp_path):
    nothing_is_written(tmp_path, tmp_path / "nowhere", "no such folder: .*nowhere")
    (tmp_path / "empty").mkdir()
    nothing_is_written(tmp_path, tmp_path / "empty", "neither annotations.json")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/annotations.json").write_bytes(orjson.dumps(record()))
    nothing_is_written(tmp_path, tmp_path / "coco", "images of .* are missing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"annotations\.json is not JSON"),
        (b"[]", "not in COCO's format"),
        (b'{"images": [], "annotations": []}', "not in COCO's format"),
        (b'{"images": [], "annotations": [], "categories": []}', "is empty"),
        (orjson.dumps({**record(), "annotations": []}), "is empty"),
    ],
)
def test_broken_and_empty_annotation_files_are_named(tmp_path, content, message):
    nothing_is_written(tmp_path, broken(tmp_path, content), message)


def test_an_unknown_category_is_named_with_the_nearest(tmp_path):
    content = record()
    content["categories"][1]["name"] = "Fire Hydrent"
    path = folder(tmp_path / "coco", content)
    nothing_is_written(tmp_path, path, r"'Fire Hydrent' \(nearest: 'fire hydrant'\)")


def test_category_names_fit_as_concept_lists_are_joined():
    names = {"ski", "bus", "traffic light", "T-shirt"}
    found = {
        name: concept_name(name, names) for name in ("skis", "bus", "Traffic_Light", "T-shirt")
    }
    assert found == {
        "skis": "ski",
        "bus": "bus",
        "Traffic_Light": "traffic light",
        "T-shirt": "T-shirt",
    }
    assert concept_name("sledge", names) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    path = folder(tmp_path / "coco")
    (tmp_path / "out").write_text("a file is in the way")
    nothing_is_written(tmp_path, path, "cannot write to .*out")


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    path = folder(tmp_path / "coco")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("dear to somebody")
    nothing_is_written(tmp_path, path, "not empty")


def test_nothing_is_left_when_every_image_is_faulty(tmp_path):
    path = folder(tmp_path / "coco")
    for image in (path / "images").iterdir():
        image.unlink()
    nothing_is_written(tmp_path, path, "no image is left to train on.*\n.*No such file")


@pytest.mark.skipif(not COCO_OPEN.is_dir(), reason="the shared COCO images are not here")
def test_real_coco_is_imported_whole(tmp_path):
    vocabulary = Vocabulary.from_names(concept_list("coco_80"), 8, "category_names")
    report = run(COCO_OPEN, tmp_path / "out", vocabulary, val_fraction=0.2)
    assert sum(report.images.values()) == 123
    assert sum(report.regions.values()) == 1129
    assert report.left_out["crowds"] == 14
    assert faults(tmp_path / "out") == []
