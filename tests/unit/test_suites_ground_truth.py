from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from suite_truths import content, disc, lvis, rle, truth, write

from datamodules.shards.records import Region, Sample
from datamodules.shards.writer import ShardWriter
from tap_platform.evaluation.suites.ground_truth import (
    ImageFile,
    boxes_of,
    read_boxes,
    read_ground_truth,
)


def test_a_coco_folder_keeps_the_order_of_its_categories_and_numbers_regions_from_one(tmp_path):
    found = truth(tmp_path)
    assert [each["name"] for each in found.categories] == ["dog", "cat", "red car"]
    assert [each["id"] for each in found.annotations] == [1, 2, 3, 4]
    assert found.style == "coco"


def test_a_part_of_the_images_says_that_it_is_one(tmp_path):
    whole = truth(tmp_path)
    assert whole.first_images(1).origin == f"{whole.origin}, the first 1 of 2 images"
    assert whole.first_images(2).origin == whole.origin


def test_crowds_are_not_asked_about(tmp_path):
    assert {k: len(v) for k, v in truth(tmp_path).by_image.items()} == {11: 2, 12: 1}


def test_boxes_become_corners(tmp_path):
    (box, _) = boxes_of(truth(tmp_path).by_image[11])
    assert box.tolist() == [8, 18, 33, 43]


def test_polygons_and_plain_run_lengths_become_compressed_ones(tmp_path):
    coco = content()
    coco["annotations"][0]["segmentation"] = [[0, 0, 40, 0, 40, 30, 0, 30]]
    column_runs = [60 * 10, 60 * 5, 60 * 65]
    coco["annotations"][1]["segmentation"] = {"size": [60, 80], "counts": column_runs}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(coco))
    found = read_ground_truth(path)
    assert [coco_mask.area(found.mask(each)) for each in found.annotations[:2]] == [1200, 300]


def test_a_broken_mask_is_named(tmp_path):
    coco = content()
    coco["annotations"][1]["segmentation"] = [["a", "b"]]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(coco))
    found = read_ground_truth(path)
    with pytest.raises(ValueError, match="annotation 2 of image 11 has no usable mask"):
        found.mask(found.annotations[1])


def test_lvis_finds_its_images_by_their_addresses_in_both_splits(tmp_path):
    coco = lvis(content())
    for image, split in zip(coco["images"], ("train2017", "val2017"), strict=True):
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/{split}/{name}"
        (tmp_path / split).mkdir()
        (tmp_path / split / name).write_bytes(b"")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_val.json").write_text(json.dumps(coco))
    found = read_ground_truth(tmp_path)
    assert found.style == "lvis"
    assert found.places == {
        11: ImageFile(tmp_path / "train2017/11.png"),
        12: ImageFile(tmp_path / "val2017/12.png"),
    }


def test_shards_are_read_as_the_validation_split_of_a_data_set(tmp_path):
    mask = disc(20, 30, 12)
    box, area = (8.0, 18.0, 25.0, 25.0), float(mask.sum())
    described = Region(rle(mask), box, area, "dog", ["a dog", " "])
    named = Region(rle(mask), box, area, "hot_dog")
    plain = Region(rle(mask), box, area)
    image = write(tmp_path / "coco", content()) / "images/11.png"
    with ShardWriter(tmp_path / "data/val", samples_per_shard=4) as writer:
        writer.write(Sample("first", image.read_bytes(), 80, 60, [described, named, plain]))
    found = read_ground_truth(tmp_path / "data")
    assert found.category_names == {1: "dog", 2: "hot_dog", 3: "region"}
    assert [each["category_id"] for each in found.annotations] == [1, 2, 3]
    assert found.annotations[0]["captions"] == ["a dog"]
    assert np.array_equal(coco_mask.decode(found.mask(found.annotations[0])), mask)
    assert found.annotations[1]["captions"] == []
    assert found.places[1].read() == image.read_bytes()
    named = read_ground_truth(tmp_path / "data", wording="category")
    assert [each["captions"] for each in named.annotations] == [["a dog"], ["hot dog"], []]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ('{"images": []}', "COCO's format"), ("[1]", "COCO's format")],
)
def test_a_broken_annotation_file_is_named(tmp_path, text, message):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"truth.json.*{message}"):
        read_ground_truth(path)


def test_a_folder_without_annotations_tells_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"annotations\.json or annotations/instances_val2017"):
        read_ground_truth(tmp_path)


def test_boxes_of_a_detector_need_scores(tmp_path):
    path = tmp_path / "boxes.json"
    box = {"image_id": 11, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
    path.write_text(json.dumps({"annotations": [box]}))
    assert read_boxes(path) == [box]
    path.write_text(json.dumps([{**box, "score": 1}, {"image_id": 11}]))
    with pytest.raises(ValueError, match="no detector boxes"):
        read_boxes(path)
