from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datamodules.palette import PROMPT, RIGHT, WRONG
from tap_platform.prediction import Prediction
from tap_platform.prediction.drawing import COLOURS, LONGEST_LIST, _wrapped, draw_prediction, title
from tap_platform.prediction.prompts import read_prompts

IMAGE = np.full((48, 96, 3), 90, np.uint8)
SCALE = 10  # the long side is brought to 960


def regions(count):
    masks = np.zeros((count, 48, 96), bool)
    masks[:, 8:40, 16:80] = True
    return Prediction(
        masks=masks,
        iou=np.full(count, 0.5, np.float32),
        stability=np.ones(count, np.float32),
        boxes=np.tile(np.array([16, 8, 80, 40], np.float32), (count, 1)),
        low_res_logits=np.zeros((count, 4, 4), np.float32),
        concepts=np.array(["dog"] * count),
        concept_scores=np.full(count, 0.93, np.float32),
        captions=np.array(["a brown dog"] * count),
    )


def colours(picture):
    return {colour for _, colour in picture.getcolors(maxcolors=1 << 24)}


def test_masks_are_tinted_and_outlined_where_they_are():
    picture = np.asarray(draw_prediction(IMAGE, regions(1)))
    assert (picture[20 * SCALE, 5 * SCALE] == 90).all()
    inside = picture[20 * SCALE, 40 * SCALE]
    np.testing.assert_allclose(inside, 0.55 * 90 + 0.45 * np.array(COLOURS[0]), atol=1)
    assert (picture[20 * SCALE, 16 * SCALE - 3 : 16 * SCALE + 3] == COLOURS[0]).all(1).any()


def test_small_regions_lie_on_large_ones():
    found = regions(2)
    found.masks[1] = False
    found.masks[1, 20:28, 40:56] = True
    found.boxes[1] = 40, 20, 56, 28
    for order in ([0, 1], [1, 0]):
        shuffled = replace(found, masks=found.masks[order], boxes=found.boxes[order])
        picture = np.asarray(draw_prediction(IMAGE, shuffled))
        below = 0.55 * 90 + 0.45 * np.array(COLOURS[order[0]])
        expected = 0.55 * below + 0.45 * np.array(COLOURS[order[1]])
        np.testing.assert_allclose(picture[24 * SCALE, 48 * SCALE], expected, atol=2)


def test_prompts_are_drawn_where_they_are():
    box = np.asarray(draw_prediction(IMAGE, regions(1), read_prompts(boxes=[2, 3, 90, 45])))
    assert (box[24 * SCALE, 2 * SCALE - 3 : 2 * SCALE + 3] == PROMPT).all(1).any()
    clicks = read_prompts(points=[[5, 5], [90, 40]], labels=[1, 0])
    drawn = np.asarray(draw_prediction(IMAGE, regions(1), clicks))
    assert tuple(drawn[55 - 5, 55]) == RIGHT
    assert tuple(drawn[405 - 5, 905]) == WRONG


def test_boxes_without_area_and_outside_can_be_drawn():
    for box in ([5, 5, 5, 5], [-900, -900, 4000, 4000], [500, 500, 600, 600]):
        draw_prediction(IMAGE, regions(1), read_prompts(boxes=box))


def test_every_caption_is_below_the_picture():
    one, two = (draw_prediction(IMAGE, regions(count)).height for count in (1, 2))
    silent = replace(regions(1), captions=None)
    assert 480 < draw_prediction(IMAGE, silent).height < one < two
    long = replace(regions(1), captions=np.array(["a brown dog on the grass " * 20]))
    assert draw_prediction(IMAGE, long).height > one


def test_many_regions_have_a_list_that_ends():
    full = draw_prediction(IMAGE, regions(LONGEST_LIST)).height
    assert draw_prediction(IMAGE, regions(LONGEST_LIST + 1)).height == (
        draw_prediction(IMAGE, regions(LONGEST_LIST + 9)).height
    )
    assert draw_prediction(IMAGE, regions(LONGEST_LIST + 1)).height < full + 40


def test_no_region_is_told_too():
    assert draw_prediction(IMAGE, regions(0)).height > 480


def test_an_empty_mask_paints_nothing():
    found = replace(regions(1), masks=np.zeros((1, 48, 96), bool), boxes=np.zeros((1, 4)))
    picture = np.asarray(draw_prediction(IMAGE, found))
    assert (picture[100:480] == 90).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (3000, 2), (2500, 2600)])
def test_images_of_any_shape(size):
    boxes = np.array([[0, 0, *size[::-1]]], np.float32)
    found = replace(regions(1), masks=np.ones((1, *size), bool), boxes=boxes)
    picture = draw_prediction(np.zeros((*size, 3), np.uint8), found)
    assert picture.width >= 640
    assert max(picture.size) <= 1800


def test_titles():
    assert title(regions(1), 0) == "dog 93%"
    assert title(replace(regions(2), concepts=None), 1) == "region 2"


def test_captions_are_wrapped_at_words():
    assert _wrapped("a brown dog on grass", 100) == ["a brown dog", "on grass"]
    assert _wrapped("incomprehensibilities of it", 40) == ["incomprehensibilities", "of it"]
    assert _wrapped("", 40) == []
