from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.order.plan import Position
from datamodules.stream.batch import RegionBatch
from tap_platform.evaluation import pictures
from tap_platform.evaluation.examples import Example, Words, collect_examples
from tap_platform.evaluation.pictures import draw_grid, prediction_grid
from tap_platform.models import Tap, TapConfig
from tap_platform.prediction.captions import Speech
from tap_platform.text import Tokenizer

NAMES = ("red star", "blue ring", "green square")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Tap(TapConfig.preset("tiny", image_size=64, window_size=4, concept_dim=3))


@pytest.fixture
def batch():
    """Three images: two regions (one tiny), none, one; pictures of 48 x 64 pixels."""
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, 2:8, 3:9] = True
    masks[1, 0, 0] = True
    masks[2, 4:10, 4:6] = True
    return RegionBatch(
        pixels=torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8),
        masks=masks,
        boxes=torch.tensor([[12.0, 8, 36, 32], [0, 0, 4, 4], [16, 16, 24, 40]]),
        image_index=torch.tensor([0, 0, 2]),
        priors=torch.zeros(3, 3),
        has_mask=torch.ones(3, dtype=torch.bool),
        has_prior=torch.zeros(3, dtype=torch.bool),
        concepts=torch.tensor([1, 0, -1]),
        weights=torch.ones(3),
        seeds=torch.arange(3),
        sizes=torch.tensor([[48, 64]] * 3),
        keys=["a", "b", "c"],
        phrases=[()] * 3,
        position=Position(),
    )


@pytest.fixture
def example():
    mask = np.full((40, 60), -1, np.float32)
    mask[10:30, 20:50] = 1
    return Example(
        picture=np.full((40, 60, 3), 90, np.uint8),
        box=(20.0, 10.0, 50.0, 30.0),
        point=None,
        true_mask=mask,
        predicted_mask=mask[::-1].copy(),
        iou=0.5,
        true_concept="blue ring",
        predicted_concept="blue ring",
        probability=0.9,
    )


def test_examples_take_one_large_region_an_image_by_box_and_point_in_turn(model, batch):
    first, second = collect_examples(model, [batch], NAMES, torch.eye(3), 0.01, count=9)
    assert first.box == (12, 8, 36, 32)
    assert first.point is None
    assert first.true_concept == "blue ring"
    assert first.picture.shape == (48, 64, 3)
    assert (first.true_mask > 0)[9:31, 13:35].all()
    assert (first.true_mask > 0).sum() == 24 * 24 - 4  # enlarging rounds the corners
    assert first.predicted_mask.shape == (48, 64)
    assert first.predicted_concept in NAMES
    assert 1 / 3 <= first.probability <= 1
    assert second.box is None
    assert second.point == (17.5, 25.5)  # the centre of cell (4, 6), in the middle of its region
    assert second.true_concept is None


def test_the_grid_is_as_wide_as_a_readme(model, batch):
    batches = [batch, batch]
    grid = prediction_grid(model, batches, NAMES, torch.eye(3), 0.01, count=3)
    assert grid.width == 1200
    rows_of_two = draw_grid(collect_examples(model, batches, NAMES, torch.eye(3), 0.01, 4))
    assert grid.size == rows_of_two.size
    assert prediction_grid(model, [batch], NAMES, torch.eye(3), 0.01, count=2).height < grid.height


def colours(picture):
    return {colour for _, colour in picture.getcolors(maxcolors=1 << 24)}


def test_a_right_concept_is_green_and_a_wrong_one_red(example):
    wrong = replace(example, predicted_concept="red star")
    unnamed = replace(example, true_concept=None)
    shown = [colours(pictures._card(one, 1000)) for one in (example, wrong, unnamed)]
    assert [pictures.RIGHT in found for found in shown] == [True, False, False]
    assert [pictures.WRONG in found for found in shown] == [False, True, False]


def test_masks_are_tinted_inside_and_outlined(example):
    picture = pictures.fitted(example.picture, 600)
    shown = np.asarray(pictures.with_mask(picture, example.true_mask, pictures.TRUE))
    assert shown.shape == (400, 600, 3)
    inside, outside = shown[200, 350], shown[50, 50]
    assert inside[2] > inside[0]  # bluish
    assert len(set(outside.tolist())) == 1  # grey
    assert outside[0] > 90  # faded
    edge = shown[200]
    assert (edge[198:203] == pictures.TRUE).all(1).any()


def test_prompts_are_drawn_where_they_are(example):
    picture = pictures.fitted(example.picture, 600)
    boxed = np.asarray(pictures._with_prompt(picture, example))
    assert (boxed[200, 196:202] == pictures.PROMPT).all(1).any()
    assert (boxed[200, 300] == 90).all()
    clicked = np.asarray(
        pictures._with_prompt(picture, replace(example, box=None, point=(29.5, 19.5)))
    )
    assert (clicked[200, 307] == pictures.PROMPT).all()


def test_what_people_and_the_model_say_stands_below_the_panels(example):
    silent = pictures._card(example, 1000)
    said = replace(example, words=Words("a blue ring", "a red star"))
    spoken = pictures._card(said, 1000)
    assert spoken.height > silent.height
    below = np.asarray(spoken)[silent.height - pictures._PADDING : -pictures._PADDING]
    assert (below == pictures.INK).all(-1).any()
    endless = replace(example, words=Words("a blue ring " * 90, "red " * 250))
    nothing = replace(example, words=Words(None, ""))
    assert pictures._card(endless, 1000).size == pictures._card(nothing, 1000).size == spoken.size


def test_a_line_that_is_too_long_ends_with_dots_inside_its_room(monkeypatch):
    written = []

    class Draw:
        def textlength(self, text, font):
            return 10 * len(text)

        def text(self, place, text, colour, font):
            written.append(text)

    pictures.write_line(Draw(), (0, 0), "a small red star", pictures.INK, 12, 100)
    pictures.write_line(Draw(), (0, 0), "a red star", pictures.INK, 12, 100)
    assert written == ["a small...", "a red star"]


def test_examples_of_a_model_that_speaks_have_words(batch):
    torch.manual_seed(0)
    config = TapConfig.preset(
        "tiny", image_size=64, window_size=4, concept_dim=3, vocab_size=32000, text_depth=1
    )
    batch.phrases = [("a ring", "a blue ring"), (), ()]
    first, second = collect_examples(
        Tap(config), [batch], NAMES, torch.eye(3), 0.01, 9, Speech(Tokenizer())
    )
    assert first.words.phrase == "a ring"
    assert first.words.caption
    assert second.words.phrase is None


def test_long_names_are_shortened_to_their_panel(example):
    long = replace(example, true_concept="a very long name " * 9)
    short = replace(example, true_concept="a")
    assert pictures._card(long, 1000).size == pictures._card(short, 1000).size


def test_an_image_of_one_pixel_can_be_drawn(example):
    dot = replace(
        example,
        picture=np.zeros((1, 1, 3), np.uint8),
        true_mask=np.ones((1, 1), np.float32),
        predicted_mask=np.ones((1, 1), np.float32),
    )
    assert draw_grid([dot]).width == 1200


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no held-out region"):
        draw_grid([])
