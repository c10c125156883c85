from __future__ import annotations

import numpy as np
import pytest
from test_prediction_predictor import NAMES, Words
from toy_model import ToyTap

from tap_platform.prediction import EverythingSettings, TapPredictor, segment_everything
from tap_platform.prediction import everything as module
from tap_platform.prediction.everything import grid_points


@pytest.fixture
def toy():
    return TapPredictor(ToyTap(), NAMES, Words()).set_image(np.zeros((64, 64, 3), np.uint8))


def test_the_grid_lies_in_the_middle_of_its_cells():
    assert grid_points(2, 10, 40).tolist() == [[[10, 2.5]], [[30, 2.5]], [[10, 7.5]], [[30, 7.5]]]


def test_each_object_is_found_once(toy):
    found = segment_everything(toy, EverythingSettings(points_per_side=8))
    assert len(found) == 4
    assert sorted(found.concepts.tolist()) == list("abcd")
    assert found.captions.shape == (4,)
    assert 64 * 64 - 4 <= found.masks.sum() <= 64 * 64  # enlarging rounds the inner corners
    np.testing.assert_allclose(found.iou, 0.9)


def test_chunks_change_nothing(toy, monkeypatch):
    whole = segment_everything(toy, EverythingSettings(points_per_side=6))
    monkeypatch.setattr(module, "PROMPTS_AT_ONCE", 5)
    parts = segment_everything(toy, EverythingSettings(points_per_side=6))
    np.testing.assert_array_equal(whole.masks, parts.masks)


@pytest.mark.parametrize(
    ("settings", "scores"),
    [
        ({"min_stability": 0.0}, [0.95] * 4 + [0.9] * 4),  # the unstable masks are scored best
        ({"min_iou": 0.2, "max_overlap": 1.0}, [0.9] * 16 + [0.3] * 16),
        ({"min_iou": 0.2, "max_overlap": 0.1}, [0.9] * 4),
        ({"min_iou": 0.99}, []),
    ],
)
def test_filters_drop_what_they_say(toy, settings, scores):
    found = segment_everything(toy, EverythingSettings(points_per_side=4, **settings))
    assert found.iou.tolist() == pytest.approx(scores)
    assert found.masks.shape == (len(scores), 64, 64)
    assert len(found.concepts) == len(found.captions) == len(scores)
