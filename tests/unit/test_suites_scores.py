from __future__ import annotations

import numpy as np
import pytest
from suite_truths import annotation, content, disc, lvis, rle, truth

from datamodules.vocabulary import Vocabulary
from tap_platform.evaluation.suites import classification
from tap_platform.evaluation.suites.average_precision import average_precision
from tap_platform.evaluation.suites.classification import (
    ClassificationSuite,
    category_embeddings,
    detect,
)
from tap_platform.evaluation.suites.instances import InstanceSuite, Segmented


def perfect(found):
    """The true masks as a model's answers, the last scored best."""
    return {
        identity: Segmented(
            [found.mask(each) for each in own], np.linspace(0.5, 0.9, len(own), dtype=np.float32)
        )
        for identity, own in found.by_image.items()
    }


def many(count, seed=0):
    """A ground truth of many regions, and detections that are right, shifted or wrong."""
    draw = np.random.default_rng(seed)
    coco = content()
    coco["annotations"], predictions = [], []
    for number in range(count):
        image, category = int(draw.choice([11, 12])), int(draw.choice([7, 3, 5]))
        x, y, radius = draw.integers(5, 75), draw.integers(5, 55), draw.integers(3, 25)
        coco["annotations"].append(annotation(number, image, category, disc(x, y, radius)))
        shift = int(draw.integers(0, 6))
        guess = category if draw.random() < 0.8 else int(draw.choice([7, 3, 5]))
        mask = disc(x + shift, y, radius)
        predictions.append(
            {
                "image_id": image,
                "category_id": guess,
                "segmentation": rle(mask),
                "score": float(draw.random()),
            }
        )
    return coco, predictions


def test_perfect_masks_have_an_ap_of_one_at_every_size(tmp_path):
    found = truth(tmp_path)
    result = InstanceSuite(found).score(perfect(found))
    assert result.metrics == pytest.approx(
        {"AP": 1, "AP50": 1, "AP75": 1, "APs": 1, "APm": 1, "APl": None}
    )
    assert all(case.measure == "IoU 1.00" for case in result.cases)


def test_perfect_masks_have_an_ap_of_one_at_every_frequency(tmp_path):
    found = truth(tmp_path, lvis(content()))
    metrics = InstanceSuite(found).score(perfect(found)).metrics
    assert [metrics[name] for name in ("AP", "APr", "APc", "APf")] == pytest.approx([1] * 4)


def test_masks_of_the_wrong_category_have_none(tmp_path):
    found = truth(tmp_path)
    wrong = [
        {**each, "category_id": {7: 3, 3: 5, 5: 7}[each["category_id"]]}
        for each in InstanceSuite(found).score(perfect(found)).predictions
    ]
    assert average_precision(found, wrong, "segm")["AP"] == 0


def test_sizes_are_those_of_masks_not_of_boxes(tmp_path):
    found = truth(tmp_path)
    assert all(
        "bbox" not in each for each in InstanceSuite(found).score(perfect(found)).predictions
    )


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_both_implementations_agree_to_the_last_bit_but_rounding(tmp_path, kind):
    coco, predictions = many(60)
    found = truth(tmp_path, coco)
    if kind == "bbox":
        boxes = [each["bbox"] for each in coco["annotations"]]
        predictions = [
            {**{k: v for k, v in each.items() if k != "segmentation"}, "bbox": [x + 2, y, w, h]}
            for each, (x, y, w, h) in zip(predictions, boxes, strict=True)
        ]
    fast = average_precision(found, predictions, kind, "faster-coco-eval")
    slow = average_precision(found, predictions, kind, "pycocotools")
    assert 0.1 < slow["AP"] < 0.9
    assert fast == pytest.approx(slow, abs=1e-12)


def test_no_prediction_is_no_precision(tmp_path):
    assert average_precision(truth(tmp_path), [], "segm")["AP"] == 0


def test_detections_keep_their_scores_and_categories(tmp_path):
    found = truth(tmp_path)
    boxes = [{"image_id": 12, "category_id": 5, "bbox": [20, 10, 41, 41], "score": 0.25}]
    suite = InstanceSuite(found, boxes)
    assert suite.requests()[12].tolist() == [[20, 10, 61, 51]]
    right = Segmented([found.mask(found.by_image[12][0])], np.array([0.9], np.float32))
    result = suite.score({12: right})
    assert result.predictions[0]["score"] == 0.25
    assert result.metrics["AP"] == pytest.approx(1 / 3)
    assert result.cases[0].measure == "IoU 1.00"


def test_boxes_of_another_data_set_are_refused(tmp_path):
    found = truth(tmp_path)
    box = {"image_id": 12, "category_id": 99, "bbox": [0, 0, 1, 1], "score": 1}
    with pytest.raises(ValueError, match=r"categories that .* lacks: \[99\]"):
        InstanceSuite(found, [box])
    with pytest.raises(ValueError, match="no box to segment"):
        InstanceSuite(found, [{**box, "category_id": 5, "image_id": 1}])


BOXES = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 50, 50]], np.float32)
CHANCES = np.array([[0.9, 0.0999, 0.0001], [0.6, 0.4, 0], [0.5, 0.25, 0.25]], np.float32)
IOU = np.array([0.25, 1.5, 0.64], np.float32)


def by_pair(found):
    return dict(zip(zip(found.boxes.tolist(), found.categories.tolist(), strict=True),
                    found.scores.tolist(), strict=True))  # fmt: skip


def test_each_pair_is_scored_by_its_own_iou_brought_to_one_at_most():
    # Boxes 0 and 1 overlap by 0.82: of each category, the better one stays.
    assert by_pair(detect(BOXES, CHANCES, IOU, "own")) == pytest.approx(
        {
            (1, 0): np.sqrt(0.6),
            (1, 1): np.sqrt(0.4),
            (2, 0): np.sqrt(0.5 * 0.64),
            (2, 1): np.sqrt(0.25 * 0.64),
            (2, 2): np.sqrt(0.25 * 0.64),
        }
    )


def test_as_published_the_first_box_decides_nms_and_the_last_one_all_scores():
    assert by_pair(detect(BOXES, CHANCES, IOU, "published")) == pytest.approx(
        {
            (0, 0): np.sqrt(0.9 * 0.64),
            (1, 1): np.sqrt(0.4 * 0.64),
            (2, 0): np.sqrt(0.5 * 0.64),
            (2, 1): np.sqrt(0.25 * 0.64),
            (2, 2): np.sqrt(0.25 * 0.64),
        }
    )


def test_an_image_keeps_the_best_and_those_that_tie(monkeypatch):
    monkeypatch.setattr(classification, "MAX_DETECTIONS", 4)
    kept = detect(BOXES, CHANCES, IOU, "own")
    assert len(kept.scores) == 5
    monkeypatch.setattr(classification, "MAX_DETECTIONS", 3)
    assert kept.scores[:3].tolist() == detect(BOXES, CHANCES, IOU, "own").scores.tolist()


def test_unlikely_pairs_are_no_detections():
    assert not len(detect(BOXES, np.full_like(CHANCES, 0.001), IOU, "own").scores)


def vocabulary(*names):
    return Vocabulary(names, np.eye(len(names), 4, dtype=np.float32), "test")


def test_categories_are_found_by_name_whatever_the_order_of_the_vocabulary(tmp_path):
    names = vocabulary("bird", "red car", "cat", "dog")
    rows = category_embeddings(truth(tmp_path), names)
    assert rows.argmax(1).tolist() == [3, 2, 1]


def test_as_many_names_in_other_words_are_taken_in_order(tmp_path):
    rows = category_embeddings(truth(tmp_path), vocabulary("hound", "cat", "red auto"))
    assert rows.argmax(1).tolist() == [0, 1, 2]


def test_a_vocabulary_that_lacks_categories_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lack 2 of the 3 .*'dog', 'red car'"):
        category_embeddings(truth(tmp_path), vocabulary("cat", "bird"))


def answers(found, rows):
    """What a model would answer that gives each box's category (a row) all probability."""
    suite = ClassificationSuite(found, vocabulary("dog", "cat", "red car"), 0.01)
    return suite, {
        identity: classification.Classified(
            detections=classification.Detections(
                np.arange(len(own)), np.array(own), np.full(len(own), 0.9, np.float32)
            ),
            true_probability=np.ones(len(own), np.float32),
            rank=np.array(own) != suite.requests()[identity].categories,
            likeliest=np.array(own),
            probability=np.ones(len(own), np.float32),
        )
        for identity, own in rows.items()
    }


def test_a_row_of_the_vocabulary_is_the_category_at_that_place_of_the_file(tmp_path):
    suite, right = answers(truth(tmp_path), {11: [0, 1], 12: [2]})
    result = suite.score(right)
    assert [each["category_id"] for each in result.predictions] == [7, 3, 5]
    assert result.metrics["AP"] == pytest.approx(1)
    assert result.metrics["top-1"] == 1
    suite, wrong = answers(truth(tmp_path / "again"), {11: [1, 0], 12: [2]})
    result = suite.score(wrong)
    assert result.metrics["AP"] == pytest.approx(1 / 3)
    assert result.metrics["top-1"] == pytest.approx(1 / 3)
    assert [case.correct for case in result.cases] == [False, False, True]
    assert [true == called for true, called in result.named] == [False, False, True]
