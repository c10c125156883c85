from __future__ import annotations

import numpy as np
import pytest
from test_prediction_predictor import NAMES, Words
from toy_model import ToyTap

from tap_platform.prediction import TapPredictor
from tap_platform.prediction.app import CORNER, INSIDE, NOTHING, OUTSIDE, Session, build_page


@pytest.fixture
def session():
    predictor = TapPredictor(ToyTap(), NAMES, Words())
    return Session(predictor.set_image(np.zeros((64, 64, 3), np.uint8)))


def test_a_click_is_answered(session):
    assert session.answer() == NOTHING
    session.click((40, 9), INSIDE)
    picture, *told = session.answer()
    assert picture.width == 960
    assert told == ["b 100%", "301 301", "0.95"]


def test_clicks_add_up_until_the_next_region(session):
    session.click((40, 9), INSIDE)
    session.click((5, 6), OUTSIDE)
    assert session.prompts.points.tolist() == [[[40, 9], [5, 6], [0, 0]]]
    assert session.prompts.labels.tolist() == [[1, 0, 4]]
    session.forget()
    assert session.prompts is None


def test_any_two_opposite_corners_are_a_box(session):
    session.click((40, 9), CORNER)
    assert session.answer() == NOTHING
    session.click((10, 50), CORNER)
    assert session.prompts.points.tolist() == [[[10, 9], [40, 50]]]
    session.click((30, 30), INSIDE)
    assert session.prompts.labels.tolist() == [[2, 3, 1]]
    session.forget()
    for place in ((1, 1), (2, 2), (3, 3), (4, 4)):
        session.click(place, CORNER)
    assert session.prompts.points.tolist() == [[[3, 3], [4, 4]]]


def test_what_is_missing_is_told(session):
    bare = Session(TapPredictor(ToyTap()).set_image(np.zeros((64, 64, 3), np.uint8)))
    bare.click((1, 1), INSIDE)
    assert bare.answer()[1:] == (
        "(started without concepts)",
        "(no tokenizer: start with --tokenizer)",
        "0.95",
    )


def test_the_page_is_built(session):
    page = build_page(session.predictor)
    assert "Picture" in str(page.get_config_file())
