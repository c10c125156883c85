from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datamodules.decoding.run_lengths import run_lengths
from datamodules.shards.records import decode_annotation
from tap_platform.prediction import Prediction
from tap_platform.prediction.prompts import read_prompts
from tap_platform.prediction.records import encode_prediction


@pytest.fixture
def found():
    masks = np.zeros((2, 6, 9), bool)
    masks[0, 1:4, 2:7] = True
    return Prediction(
        masks=masks,
        iou=np.array([0.75, 0.5], np.float32),
        stability=np.array([1, 0], np.float32),
        boxes=np.array([[2, 1, 7, 4], [0, 0, 0, 0]], np.float32),
        low_res_logits=np.zeros((2, 4, 4), np.float32),
        concepts=np.array(["dog", "cat"]),
        concept_scores=np.array([0.5, 0.25], np.float32),
        captions=np.array(["a brown dog", ""]),
    )


def test_masks_come_back_from_their_runs(found):
    record = json.loads(encode_prediction("dog.jpg", found))
    assert record["image"] == {"file_name": "dog.jpg", "width": 9, "height": 6}
    first, second = record["annotations"]
    np.testing.assert_array_equal(coco_mask.decode(first["segmentation"]), found.masks[0])
    assert run_lengths(second["segmentation"], 6, 9).tolist() == [54]
    assert (first["bbox"], first["area"]) == ([2, 1, 5, 3], 15)
    assert (first["predicted_iou"], first["stability_score"]) == (0.75, 1)
    assert (first["category"], first["category_score"]) == ("dog", 0.5)
    assert first["phrases"] == ["a brown dog"]
    assert "prompt" not in first


def test_prompts_are_told_without_pads(found):
    def told(**prompts):
        record = json.loads(encode_prediction("", found, read_prompts(**prompts)))
        return [each["prompt"] for each in record["annotations"]]

    points = [[[1, 2], [3, 4]]] * 2
    labels = [[1, 0], [1, 4]]
    clicks = [[[1, 2, 1], [3, 4, 0]], [[1, 2, 1]]]
    boxes = [[0, 0, 5, 5]] * 2
    assert told(points=points, labels=labels) == [{"points": each} for each in clicks]
    assert told(boxes=boxes) == [{"box": [0, 0, 5, 5]}] * 2
    assert told(points=points, labels=labels, boxes=boxes)[1] == {
        "box": [0, 0, 5, 5],
        "points": [[1, 2, 1]],
    }


def test_records_read_as_annotations_of_a_shard(found):
    regions = decode_annotation(encode_prediction("dog.jpg", found)).regions
    assert [region.category for region in regions] == ["dog", "cat"]
    assert regions[0].phrases == ["a brown dog"]
    assert regions[0].box == (2, 1, 5, 3)


def test_without_names_and_captions_there_are_none(found):
    bare = Prediction(found.masks, found.iou, found.stability, found.boxes, found.low_res_logits)
    record = json.loads(encode_prediction("", bare))["annotations"][0]
    assert (record["category"], record["phrases"]) == (None, [])
    assert "category_score" not in record
