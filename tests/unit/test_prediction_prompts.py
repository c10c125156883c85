from __future__ import annotations

import numpy as np
import pytest
import torch

from tap_platform.prediction.prompts import read_prompts


def test_clicks_are_followed_by_one_pad():
    prompts = read_prompts(points=[[3, 4], [5, 6]], labels=[1, 0])
    assert prompts.points.tolist() == [[[3, 4], [5, 6], [0, 0]]]
    assert prompts.labels.tolist() == [[1, 0, 4]]
    assert prompts.is_box.tolist() == [False]
    assert (prompts.points.dtype, prompts.labels.dtype) == (torch.float32, torch.int64)


def test_clicks_without_labels_are_inside():
    assert read_prompts(points=[[[3, 4]], [[5, 6]]]).labels.tolist() == [[1, 4], [1, 4]]
    assert read_prompts(points=(3, 4)).points.tolist() == [[[3, 4], [0, 0]]]


def test_a_box_is_its_two_corners_and_no_pad():
    prompts = read_prompts(boxes=np.array([1, 2, 30, 40]))
    assert prompts.points.tolist() == [[[1, 2], [30, 40]]]
    assert prompts.labels.tolist() == [[2, 3]]
    assert prompts.is_box.tolist() == [True]
    assert read_prompts(boxes=torch.ones(5, 4)).points.shape == (5, 2, 2)


def test_box_and_clicks_together_are_a_box_first():
    prompts = read_prompts(points=[[3, 4]], labels=[0], boxes=[1, 2, 30, 40])
    assert prompts.points.tolist() == [[[1, 2], [30, 40], [3, 4]]]
    assert prompts.labels.tolist() == [[2, 3, 0]]
    assert prompts.is_box.tolist() == [True]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "no prompt: give points, boxes, or both"),
        ({"labels": [1]}, "labels without points"),
        ({"points": [["3", "4"]]}, r"points hold \['3', '4'\], which are not numbers"),
        ({"boxes": ["1", "2", "3", "4"]}, "boxes hold .* which are not numbers"),
        ({"boxes": "1,2,3,4"}, "not numbers"),
        ({"boxes": [1, 2, None, 4]}, "not numbers"),
        ({"points": [[3, float("nan")]]}, "points hold NaN or infinity"),
        ({"boxes": [0, 0, float("inf"), 9]}, "boxes hold NaN or infinity"),
        ({"points": []}, "points have the shape"),
        ({"points": np.zeros((0, 1, 2))}, r"not \[0, 1, 2\]"),
        ({"points": [[1, 2, 1]]}, r"points have the shape .* not \[1, 1, 3\]"),
        ({"points": [[1, 2], [3]]}, "ragged"),
        ({"boxes": [1, 2, 3]}, r"boxes have the shape \[4\] or \[M, 4\]"),
        ({"boxes": np.zeros((0, 4))}, r"not \[0, 4\]"),
        ({"boxes": [[0, 0, 1, 1], [100, 80, 30, 40]]}, "box 1 .* ends before it begins"),
        ({"points": [[1, 2]], "labels": [1, 0]}, "each point needs one"),
        ({"points": [[1, 2]], "labels": [2]}, "labels are 1"),
        ({"points": [[1, 2]], "labels": [0.5]}, "labels are 1"),
        ({"points": [[1, 2]], "boxes": np.ones((2, 4))}, "2 boxes but points of 1 prompts"),
    ],
)
def test_mistakes_are_told_in_words(given, told):
    with pytest.raises(ValueError, match=told):
        read_prompts(**given)
