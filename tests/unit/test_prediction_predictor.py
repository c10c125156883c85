from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_model import CONFIG, ToyTap

from datamodules.vocabulary import Vocabulary
from tap_platform.models import Tap
from tap_platform.prediction import TapPredictor, regions
from tap_platform.prediction import predictor as module
from tap_platform.prediction.regions import mask_boxes, stability_score

NAMES = Vocabulary(tuple("abcdefgh"), np.eye(8, dtype=np.float32), "letters")


class Words:
    """A tokenizer that writes numbers."""

    def check_fits(self, config):
        pass

    def decode(self, ids):
        return " ".join(str(each) for each in ids if each != 2)


@pytest.fixture
def toy():
    """Asked about an image of 32 x 64 pixels: the upper half of the frame, at scale 1."""
    predictor = TapPredictor(ToyTap(), NAMES, Words())
    return predictor.set_image(np.zeros((32, 64, 3), np.uint8))


@pytest.fixture(scope="module")
def tap():
    torch.manual_seed(0)
    return TapPredictor(Tap(CONFIG), NAMES)


def test_a_region_has_a_mask_a_concept_and_a_caption(toy):
    found = toy.predict(points=[40, 9])
    assert len(found) == 1
    assert found.masks.dtype == bool
    assert found.masks.shape == (1, 32, 64)
    assert found.masks[0, 8:24, 40:56].all()
    assert not found.masks[0, :, :34].any()
    assert found.concepts.tolist() == ["b"]
    assert found.concept_scores[0] == pytest.approx(1)
    assert found.captions.tolist() == ["301 301"]
    np.testing.assert_allclose(found.boxes, [[36, 4, 60, 28]], atol=3)


def test_boxes_take_mask_0_and_points_the_best_scored_of_the_rest(toy):
    assert toy.predict(boxes=[1, 1, 9, 9]).iou.tolist() == pytest.approx([0.5])
    assert toy.predict(points=[1, 1]).iou.tolist() == pytest.approx([0.95])
    assert toy.predict(points=[[1, 1]], boxes=[1, 1, 9, 9]).iou.tolist() == pytest.approx([0.5])


def test_multimask_gives_the_three_masks_for_points(toy):
    found = toy.predict(points=[[[1, 1]], [[40, 9]]], multimask=True)
    assert found.masks.shape == (2, 3, 32, 64)
    assert found.boxes.shape == (2, 3, 4)
    np.testing.assert_allclose(found.iou, [[0.9, 0.95, 0.3]] * 2, atol=1e-6)
    assert found.concepts.tolist() == [["a"] * 3, ["b"] * 3]
    assert found.captions.shape == (2, 3)
    areas = found.masks.sum((2, 3))
    assert (areas[:, 0] > areas[:, 2]).all()


def test_prompts_are_scaled_by_the_exact_scale_and_may_lie_outside(toy):
    toy.set_image(np.zeros((33, 101, 3), np.uint8)).predict(boxes=[[-5, 3, 400, 30]])
    points, labels, image_index = toy.model.asked[-1]
    expected = torch.tensor([[[-5.0, 3], [400, 30]]]) * (64 / 101)
    torch.testing.assert_close(points, expected)
    assert labels.tolist() == [[2, 3]]
    assert image_index.tolist() == [0]


def test_many_prompts_are_asked_in_chunks_and_answered_in_order(toy, monkeypatch):
    monkeypatch.setattr(module, "PROMPTS_AT_ONCE", 3)
    places = np.array([[1, 1], [40, 1]] * 5, np.float32)
    found = toy.predict(points=places[:, None])
    assert found.concepts.tolist() == ["a", "b"] * 5
    assert [len(points) for points, _, _ in toy.model.asked] == [3, 3, 3, 1]


def test_masks_are_enlarged_a_few_at_a_time(toy, monkeypatch):
    places = np.array([[[1, 1]], [[40, 1]], [[1, 31]]])
    whole = toy.predict(points=places)
    monkeypatch.setattr(regions, "_NUMBERS_AT_ONCE", 2 * toy.frame.pixels_per_mask())
    parts = toy.predict(points=places)
    for field in ("masks", "stability", "boxes"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(parts, field))


def test_without_vocabulary_and_tokenizer_there_are_masks_alone():
    found = TapPredictor(ToyTap()).set_image(np.zeros((9, 9), np.uint8)).predict(points=[1, 1])
    assert (found.concepts, found.concept_scores, found.captions) == (None, None, None)


@pytest.mark.parametrize(("given", "told"), [(None, 0.5), (0.25, 0.25)])
def test_scores_follow_the_temperature_of_the_concepts(given, told):
    warm = replace(NAMES, provenance={"temperature": "0.5"})
    predictor = TapPredictor(ToyTap(), warm, temperature=given)
    found = predictor.set_image(np.zeros((9, 9), np.uint8)).predict(points=[1, 1])
    expected = np.exp(1 / told) / (np.exp(1 / told) + 7)
    np.testing.assert_allclose(found.concept_scores, expected, rtol=1e-5)


def test_captions_can_be_left_out(toy):
    assert toy.predict(points=[1, 1], captions=False).captions is None


def test_a_copy_looks_at_another_image_with_the_same_model(toy):
    other = toy.copy().set_image(np.zeros((8, 8, 3), np.uint8))
    assert other.image.shape == (8, 8, 3)
    assert toy.image.shape == (32, 64, 3)
    assert other.model is toy.model


def test_the_answer_is_the_models(tap):
    image = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
    found = tap.set_image(image).predict(boxes=[8, 4, 40, 36])
    frame = torch.full((1, 3, 64, 64), 0, dtype=torch.uint8)
    frame[:] = torch.tensor([123, 116, 103])[:, None, None]
    frame[0, :, :48] = torch.from_numpy(image).permute(2, 0, 1)
    with torch.no_grad():
        expected = tap.model(
            tap.model.normalize(frame),
            torch.tensor([[[8.0, 4], [40, 36]]]),
            torch.tensor([[2, 3]]),
            torch.tensor([0]),
        )
    np.testing.assert_allclose(found.low_res_logits[0], expected.masks[0, 0], atol=1e-5)
    np.testing.assert_allclose(found.iou, expected.iou[:, 0], atol=1e-5)
    assert not tap.model.training


def test_outside_prompts_are_answered_as_those_on_the_border(tap):
    tap.set_image(np.full((64, 64, 3), 90, np.uint8))
    far = tap.predict(points=[[-900, 5]], captions=False)
    border = tap.predict(points=[[-0.5, 5]], captions=False)
    np.testing.assert_array_equal(far.low_res_logits, border.low_res_logits)


@pytest.mark.parametrize("size", [(3, 3000), (3000, 3), (1, 1)])
def test_images_of_any_shape(tap, size):
    found = tap.set_image(np.zeros((*size, 3), np.uint8)).predict(points=[[0, 0]])
    assert found.masks.shape == (1, *size)


def test_mistakes_are_told_in_words(tap):
    with pytest.raises(ValueError, match="call set_image first"):
        TapPredictor(tap.model).predict(points=[1, 1])
    with pytest.raises(ValueError, match="no prompt"):
        tap.set_image(np.zeros((9, 9, 3), np.uint8)).predict()
    narrow = Vocabulary(("a",), np.ones((1, 3), np.float32), "narrow")
    with pytest.raises(ValueError, match="embeddings of width 3, the model's concept space 8"):
        TapPredictor(tap.model, narrow)


def test_stability_is_the_iou_of_two_cuts():
    logits = torch.tensor([[[2.0, 0.5, -0.5, -2]], [[9, 9, -9, -9]], [[-9, -9, -9, -9]]])
    assert stability_score(logits).tolist() == pytest.approx([1 / 3, 1, 0])


def test_boxes_are_those_of_the_masks():
    masks = torch.zeros(3, 5, 6, dtype=torch.bool)
    masks[0, 1:4, 2:3] = True
    masks[1] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 3, 4], [0, 0, 6, 5], [0, 0, 0, 0]]


def test_captions_are_prompted_by_the_token_of_the_training():
    predictor = TapPredictor(ToyTap(), NAMES, Words(), caption_token="mask")
    found = predictor.set_image(np.zeros((32, 64, 3), np.uint8)).predict(points=[40, 9])
    assert found.captions.tolist() == ["300 300"]
