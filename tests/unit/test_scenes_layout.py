from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest

from datamodules.scenes.appearance import COLOURS, CONCEPTS, TEXTURES, long_tailed, texture_share
from datamodules.scenes.layout import MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE, draw_layout
from datamodules.scenes.outlines import SHAPES, signed_distance
from datamodules.scenes.painting import paint

SIZE = 192


@pytest.fixture(scope="module")
def layouts():
    return [draw_layout(SIZE, 0.06, np.random.default_rng((5, number))) for number in range(60)]


def plane(extent=1.5, cells=301):
    axis = np.linspace(-extent, extent, cells, dtype=np.float32)
    return np.meshgrid(axis, axis)


def test_circle_has_its_true_distance():
    u, v = plane(1.2)
    np.testing.assert_allclose(signed_distance("circle", u, v), np.hypot(u, v) - 1, atol=0.015)


def test_ring_has_a_hole():
    u = np.array([0.0, 0.5, 0.775, 1.05], np.float32)
    distance = signed_distance("ring", u, np.zeros_like(u))
    np.testing.assert_allclose(distance, [0.55, 0.05, -0.225, 0.05], atol=0.015)


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_fills_the_unit_disc(shape):
    u, v = plane()
    inside = signed_distance(shape, u, v) < 0
    radius = np.hypot(u, v)
    assert not inside[radius > 1.02].any()
    assert radius[inside].max() > 0.95
    assert 0.2 < inside.sum() / (radius < 1).sum() < 1.01


def test_shapes_differ():
    masks = {shape: signed_distance(shape, *plane()) < 0 for shape in SHAPES}
    for one, other in itertools.combinations(SHAPES, 2):
        iou = (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()
        assert iou < 0.9, (one, other)


def test_enough_concepts_and_a_long_tail():
    assert len(SHAPES) >= 10
    assert len(COLOURS) >= 8
    assert len(set(CONCEPTS)) == len(COLOURS) * len(SHAPES) >= 80
    shares = long_tailed(SHAPES)
    assert shares.sum() == pytest.approx(1)
    assert 3 < shares[0] / shares[-1] < 10


@pytest.mark.parametrize("texture", TEXTURES)
def test_both_tones_of_a_texture_show(texture):
    u, v = plane(0.8)
    share = texture_share(texture, u, v, waves=2.2, radius=40)
    assert 0.15 < share.mean() < 0.7
    assert share.min() == 0
    assert share.max() == 1


def test_frame_and_number_of_objects(layouts):
    shapes = [layout.owner.shape for layout in layouts]
    assert all(max(shape) == SIZE and min(shape) >= 0.6 * SIZE for shape in shapes)
    assert {np.sign(height - width) for height, width in shapes} == {-1, 0, 1}
    counts = [len(layout.figures) for layout in layouts]
    assert min(counts) >= 3
    assert max(counts) == 9


def test_objects_of_many_scales(layouts):
    sizes = [figure.size for layout in layouts for figure in layout.figures]
    assert min(sizes) < 0.08
    assert max(sizes) > 0.5
    assert max(sizes) <= 0.6 + 1e-6


def test_front_objects_hide_what_is_behind(layouts):
    hidden = 0
    for layout in layouts:
        expected = np.full(layout.owner.shape, -1)
        for index, figure in enumerate(layout.figures):
            hidden += (expected[layout.whole(figure)] >= 0).any()
            expected[layout.whole(figure)] = index
        np.testing.assert_array_equal(layout.owner, expected)
    assert hidden > len(layouts) / 2


def test_every_object_stays_visible(layouts):
    for layout in layouts:
        for index, figure in enumerate(layout.figures):
            pixels = layout.visible(index).sum()
            assert pixels >= MIN_VISIBLE_PIXELS
            assert pixels >= MIN_VISIBLE_SHARE * figure.inside.sum()


def test_part_lies_within_its_whole(layouts):
    parts = [(lay, fig) for lay in layouts for fig in lay.figures if fig.part is not None]
    assert len(parts) > 20
    for layout, whole in parts:
        assert not (layout.whole(whole.part) & ~layout.whole(whole)).any()
        assert whole.part.colour != whole.colour


def test_picture_shows_the_colours_it_names(layouts):
    wrong = []
    for number, layout in enumerate(layouts[:30]):
        pixels = paint(layout, np.random.default_rng((6, number))) / 255
        for index, figure in enumerate(layout.figures):
            interior = layout.visible(index)
            if figure.part is not None:
                interior &= ~layout.whole(figure.part)
            if figure.colour == "white":
                wrong += [pixels[interior].std(axis=-1).mean() > 0.08]
                continue
            hue = colorsys.rgb_to_hsv(*np.median(pixels[interior], axis=0))[0] * 360
            low, high = COLOURS[figure.colour].hue
            wrong += [abs((hue - (low + high) / 2 + 180) % 360 - 180) > (high - low) / 2 + 8]
    assert len(wrong) > 100
    assert np.mean(wrong) < 0.05


def test_picture_fits_masks_at_edges():
    """A step across the mask's border changes the picture more than a step within the mask."""
    layout = draw_layout(SIZE, 0.06, np.random.default_rng(11))
    pixels = paint(layout, np.random.default_rng(12)).astype(float)
    steps = np.abs(np.diff(pixels, axis=1)).sum(-1)
    crossing = layout.owner[:, 1:] != layout.owner[:, :-1]
    assert steps[crossing].mean() > 4 * steps[~crossing].mean()
