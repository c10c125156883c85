from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.scenes import CONCEPTS, make_sample
from datamodules.scenes.annotation import LAYOUT, PHRASES, _stream, scene_pieces
from datamodules.scenes.appearance import TEXTURES
from datamodules.scenes.layout import draw_layout
from datamodules.shards.records import encode_annotation
from datamodules.vocabulary import name_embeddings

SIZE = 160
NUMBERS = range(60)
GRAMMAR = re.compile(
    r"an? (?:(?P<size>small|large) )?(?:(?P<texture>striped|dotted|checked|wavy) )?"
    r"(?P<concept>\w+ \w+)"
    r"(?: (?P<relation>left of|right of|above|below|behind|in front of|on) an? (?P<other>\w+ \w+))?"
)


@pytest.fixture(scope="module")
def samples():
    return [make_sample(9, "train", number, SIZE, 64) for number in NUMBERS]


@pytest.fixture(scope="module")
def scenes():
    layouts = [draw_layout(SIZE, 0.06, _stream(9, "train", number, LAYOUT)) for number in NUMBERS]
    pieces = [
        scene_pieces(layout, _stream(9, "train", number, PHRASES))
        for number, layout in zip(NUMBERS, layouts, strict=True)
    ]
    return list(zip(layouts, pieces, strict=True))


def masks_of(sample):
    return [coco_mask.decode(region.segmentation).astype(bool) for region in sample.regions]


def contents(sample):
    return sample.image, encode_annotation(sample), sample.priors.tobytes()


def test_same_arguments_same_bytes(samples):
    assert contents(make_sample(9, "train", 4, SIZE, 64)) == contents(samples[4])


@pytest.mark.parametrize("place", [(9, "val", 4), (9, "train", 5), (8, "train", 4)])
def test_every_scene_is_another_one(samples, place):
    assert make_sample(*place, SIZE, 64).image != samples[4].image


def test_width_of_the_concept_space_leaves_the_picture(samples):
    wider = make_sample(9, "train", 4, SIZE, 256)
    assert contents(wider)[:2] == contents(samples[4])[:2]
    assert wider.priors.shape == (len(wider.regions), 256)


def test_image_has_the_size_it_tells(samples):
    for sample in samples[:10]:
        image = Image.open(io.BytesIO(sample.image))
        assert image.size == (sample.width, sample.height)
        assert max(image.size) == SIZE


def test_masks_areas_and_tight_boxes(samples):
    for sample in samples:
        for region, mask in zip(sample.regions, masks_of(sample), strict=True):
            assert mask.shape == (sample.height, sample.width)
            assert region.area == mask.sum() > 0
            np.testing.assert_array_equal(region.box, coco_mask.toBbox(region.segmentation))


def test_objects_are_disjoint_and_parts_lie_within(samples, scenes):
    parts = 0
    for sample, (layout, pieces) in zip(samples, scenes, strict=True):
        masks = masks_of(sample)
        is_whole = [any(piece.figure is each for each in layout.figures) for piece in pieces]
        wholes = list(itertools.compress(masks, is_whole))
        assert sum(mask.astype(int) for mask in wholes).max() == 1
        np.testing.assert_array_equal(np.any(wholes, axis=0), layout.owner >= 0)
        for index, whole in enumerate(is_whole):
            if not whole:
                parts += 1
                assert not (masks[index] & ~masks[index - 1]).any()
    assert parts > 20


def test_names_are_in_the_vocabulary(samples):
    names = {region.category for sample in samples for region in sample.regions}
    assert names <= set(CONCEPTS)
    assert len(names) > 50


def test_phrases_follow_the_grammar_and_the_look(samples, scenes):
    for sample, (_, pieces) in zip(samples, scenes, strict=True):
        for region, piece in zip(sample.regions, pieces, strict=True):
            full, short = (GRAMMAR.fullmatch(phrase) for phrase in region.phrases)
            texture = piece.figure.texture if piece.figure.texture in TEXTURES else None
            assert full["concept"] == short["concept"] == region.category
            assert full["texture"] == short["texture"] == texture
            assert short["relation"] is None
            assert re.search(r"\ba [aeiou]|\ban [^aeiou]", region.phrases[0]) is None
            check_size(full["size"], piece.figure)


def check_size(word, figure):
    rows, columns = np.nonzero(figure.inside)
    spans = np.ptp(rows) + 1, np.ptp(columns) + 1
    if word == "small":
        assert max(spans) <= 0.15 * SIZE + 1
    elif word == "large":
        assert np.hypot(*spans) >= 0.35 * SIZE
    else:
        assert max(spans) <= 0.35 * SIZE + 1
        assert np.hypot(*spans) >= 0.15 * SIZE


def test_relations_are_true(scenes):
    seen = {}
    for layout, pieces in scenes:
        for piece in pieces:
            match = GRAMMAR.fullmatch(piece.phrases[0])
            if match["relation"]:
                seen[match["relation"]] = seen.get(match["relation"], 0) + 1
                assert any(
                    is_true(match["relation"], layout, piece, index)
                    for index, other in enumerate(layout.figures)
                    if other.concept == match["other"]
                ), piece.phrases[0]
    words = {"left of", "right of", "above", "below", "behind", "in front of", "on"}
    assert set(seen) == words
    assert min(seen.values()) > 10


def is_true(relation, layout, piece, other_index):
    other = layout.figures[other_index]
    if relation == "on":
        return other.part is piece.figure
    own_index = next(i for i, figure in enumerate(layout.figures) if figure is piece.figure)
    if relation in {"behind", "in front of"}:
        back, front = sorted((own_index, other_index))
        covered = layout.visible(front) & layout.whole(layout.figures[back])
        return covered.any() and (own_index == front) == (relation == "in front of")
    axis = 1 if relation in {"left of", "right of"} else 0
    own, others = np.nonzero(piece.visible)[axis], np.nonzero(layout.visible(other_index))[axis]
    return (
        own.max() < others.min() if relation in {"left of", "above"} else others.max() < own.min()
    )


@pytest.mark.parametrize("dim", [64, 1024])
def test_nearest_name_of_a_prior_is_mostly_the_true_one(dim):
    drawn = [make_sample(2, "val", number, SIZE, dim) for number in range(40)]
    priors = np.concatenate([sample.priors for sample in drawn])
    assert priors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(priors.astype(float), axis=1), 1, atol=2e-3)
    nearest = (priors.astype(np.float32) @ name_embeddings(CONCEPTS, dim).T).argmax(1)
    truth = [CONCEPTS.index(region.category) for sample in drawn for region in sample.regions]
    assert 0.9 < np.mean(nearest == truth) < 1


def test_priors_of_clear_regions_are_nearer():
    drawn = [make_sample(2, "val", number, SIZE, 64) for number in range(40)]
    regions = [region for sample in drawn for region in sample.regions]
    truth = name_embeddings([region.category for region in regions], 64)
    cosine = (np.concatenate([sample.priors for sample in drawn]) * truth).sum(1)
    areas = np.array([region.area for region in regions])
    assert cosine[areas > 2000].mean() > cosine[areas < 200].mean() + 0.1


def test_torch_is_not_needed():
    code = "import sys, datamodules.scenes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
