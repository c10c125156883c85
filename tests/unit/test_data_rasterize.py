import numpy as np
import pytest
from data_samples import box_mask, rle
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from datamodules.decoding.rasterize import Affine, EmptyMaskError, Rasterizer
from datamodules.decoding.run_lengths import run_lengths

BOUND = 1e-3
"""Masks may differ only where the true coverage is this near to the threshold."""


def draw(mask, affine, frame, cells, segmentation=None, min_pixels=0.0):
    target = np.zeros((cells, cells), bool)
    rasterizer = Rasterizer(*mask.shape, affine, frame, cells)
    box = rasterizer.draw(segmentation or rle(mask), target, min_pixels)
    return target, box


def overlaps(scale, offset, size, cells):
    """Length of every cell that every source pixel covers, float64 `[cells, size]`."""
    near = scale * np.arange(size) + offset
    left, right = np.minimum(near, near + scale), np.maximum(near, near + scale)
    cell = np.arange(cells)[:, None]
    return np.clip(np.minimum(right, cell + 1) - np.maximum(left, cell), 0, None)


def true_coverage(mask, affine, frame, cells):
    share = cells / frame
    down = overlaps(affine.scale_y * share, affine.offset_y * share, mask.shape[0], cells)
    across = overlaps(affine.scale_x * share, affine.offset_x * share, mask.shape[1], cells)
    return down @ mask.astype(float) @ across.T


def random_mask(rng, height, width, share=0.5):
    rough = rng.random((-(-height // 3), -(-width // 3))) < share
    return np.kron(rough, np.ones((3, 3), bool))[:height, :width]


def test_runs_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 5), (40, 61), (300, 200)):
        mask = random_mask(rng, height, width)
        runs = run_lengths(rle(mask), height, width)
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        np.testing.assert_array_equal(flat.reshape(width, height).T, mask)
        plain = {"size": [height, width], "counts": runs.tolist()}
        np.testing.assert_array_equal(run_lengths(plain, height, width), runs)
        as_bytes = {"size": [height, width], "counts": rle(mask)["counts"].encode()}
        np.testing.assert_array_equal(run_lengths(as_bytes, height, width), runs)


@pytest.mark.parametrize("offset", [(0, 0), (3, 5), (-4, -2), (-4, 5)])
def test_integer_crops_and_pads_are_exact(offset):
    mask = random_mask(np.random.default_rng(1), 24, 30)
    target, box = draw(mask, Affine(1, 1, *offset), 20, 20)
    expected = np.zeros((64, 64), bool)
    expected[20 + offset[1] : 44 + offset[1], 20 + offset[0] : 50 + offset[0]] = mask
    expected = expected[20:40, 20:40]
    np.testing.assert_array_equal(target, expected)
    rows, columns = np.flatnonzero(expected.any(1)), np.flatnonzero(expected.any(0))
    assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("factor", [2, 3, 4, 6, 7])
def test_integer_downscales_are_the_area_average(factor):
    mask = random_mask(np.random.default_rng(factor), 12 * factor, 12 * factor)
    target, _ = draw(mask, Affine(1, 1, 0, 0), 12 * factor, 12)
    average = mask.reshape(12, factor, 12, factor).mean((1, 3))
    np.testing.assert_array_equal(target, average >= 0.5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    scale_x=st.floats(0.1, 5).flatmap(lambda s: st.sampled_from([s, -s])),
    scale_y=st.floats(0.1, 5),
    offset_x=st.floats(-40, 60),
    offset_y=st.floats(-40, 40),
)
def test_any_affine_is_the_area_average(seed, height, width, scale_x, scale_y, offset_x, offset_y):
    mask = random_mask(np.random.default_rng(seed), height, width)
    affine = Affine(scale_x, scale_y, offset_x, offset_y)
    coverage = true_coverage(mask, affine, 64, 16)
    if not mask.any():
        return
    target, box = draw(mask, affine, 64, 16)
    if box is None:
        assert coverage.sum() < 1e-5
        return
    sure = np.abs(coverage - 0.5) > BOUND
    if coverage.max() > 0.5 + BOUND:
        np.testing.assert_array_equal(target[sure], coverage[sure] >= 0.5)
    elif coverage.max() < 0.5 - BOUND:
        assert target.any()
        assert coverage[target].min() >= coverage.max() - BOUND
    seen = coverage > 1e-12
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    cells = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.all(np.abs(box / 4 - cells) <= 1)


def test_boxes_are_tight_in_pixels_of_the_frame():
    mask = box_mask(20, 20, 4, 6, 10, 16)
    _, box = draw(mask, Affine(1.5, 1.5, -9, 0), 24, 6)
    np.testing.assert_allclose(box, [0, 9, 6, 24])
    _, mirrored = draw(mask, Affine(-1, 1, 20, 0), 24, 6)
    np.testing.assert_allclose(mirrored, [10, 6, 16, 16])


def test_a_thin_region_never_has_an_empty_mask():
    mask = box_mask(64, 64, 10, 0, 11, 64)
    target, _ = draw(mask, Affine(1, 1, 0, 0), 64, 16)
    assert target[:, 2].all()
    assert target.sum() == 16


def test_too_little_is_not_drawn_and_leaves_no_trace():
    rasterizer = Rasterizer(20, 20, Affine(1, 1, 0, 0), 20, 10)
    target = np.zeros((10, 10), bool)
    small, large = (rle(box_mask(20, 20, 3, 3, end, end)) for end in (6, 15))
    assert rasterizer.draw(small, target, min_pixels=10) is None
    assert not target.any()
    assert rasterizer.draw(large, target, min_pixels=10) is not None
    expected, _ = draw(box_mask(20, 20, 3, 3, 15, 15), Affine(1, 1, 0, 0), 20, 10)
    np.testing.assert_array_equal(target, expected)


def test_what_lies_outside_the_frame_is_not_drawn():
    target, box = draw(box_mask(20, 20, 15, 15, 20, 20), Affine(2, 2, 0, 0), 20, 10)
    assert box is None
    assert not target.any()


def draw_boxes(boxes, affine, size=(40, 60), frame=64, cells=16, segmentations=None):
    masks = np.ones((len(boxes), cells, cells), bool)
    given = [None] * len(boxes) if segmentations is None else segmentations
    drawing = Rasterizer(*size, affine, frame, cells).draw_all(given, np.array(boxes, float), masks)
    return masks, drawing


@pytest.mark.parametrize("affine", [Affine(1.1, 1.3, -8, 3), Affine(-0.9, 0.9, 50, -4)])
def test_a_box_is_drawn_as_the_mask_that_fills_it(affine):
    box = (7, 5, 23, 30)
    filled = rle(box_mask(40, 60, 7, 5, 30, 35))
    masks, drawing = draw_boxes([box, box], affine, segmentations=[None, filled])
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_allclose(drawing.boxes[0], drawing.boxes[1])


def test_a_box_may_have_fractions_and_reach_out_of_the_image():
    _, drawing = draw_boxes([(-3.5, 2.25, 10, 4.5), (50, 30, 99, 99)], Affine(1, 1, 0, 0))
    np.testing.assert_allclose(drawing.boxes, [[0, 2.25, 6.5, 6.75], [50, 30, 60, 40]])


def test_what_is_drawn_leaves_no_gap_and_what_is_not_leaves_no_trace():
    hidden, empty, good = (5, 0, 9, 40), (5, 5, 0, 5), (20, 10, 30, 20)
    nothing = rle(np.zeros((40, 60), bool))
    masks, drawing = draw_boxes(
        [hidden, good, empty, good, good],
        Affine(1, 1, -14, 0),
        segmentations=[None, None, None, nothing, rle(box_mask(40, 60, 20, 10, 50, 30))],
    )
    assert drawing.drawn.tolist() == [1, 4]
    assert drawing.empty == 2
    np.testing.assert_array_equal(masks[0], masks[1])
    assert masks[0].any()
    assert not masks[0].all()
    assert masks[2:].all()  # as they were


def test_a_broken_mask_leaves_the_rasterizer_as_it_was():
    rasterizer = Rasterizer(20, 20, Affine(1, 1, 0, 0), 20, 10)
    whole = rle(box_mask(20, 20, 3, 3, 15, 15))
    target, again = np.zeros((2, 10, 10), bool)
    rasterizer.draw(whole, target)
    with pytest.raises(ValueError, match="do not tell"):
        rasterizer.draw({**whole, "counts": whole["counts"][:-1]}, again)
    rasterizer.draw(whole, again)
    np.testing.assert_array_equal(target, again)


def test_an_empty_mask_is_told_apart():
    with pytest.raises(EmptyMaskError):
        draw(np.zeros((5, 5), bool), Affine(1, 1, 0, 0), 5, 5)


GOOD = rle(box_mask(6, 5, 1, 1, 4, 4))["counts"]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [6, 5], "counts": GOOD[:-1]}, "do not tell 6 x 5 pixels"),
        ({"size": [6, 5], "counts": GOOD + "1"}, "do not tell"),
        ({"size": [6, 5], "counts": ""}, "do not tell"),
        ({"size": [6, 5], "counts": "\x00 garbage ÿ"}, "do not tell"),
        ({"size": [6, 5], "counts": "oooooooooooooo"}, "do not tell"),
        ({"size": [6, 5], "counts": "o"}, "do not tell"),
        ({"size": [6, 5], "counts": "M1a0"}, "do not tell"),
        ({"size": [5, 6], "counts": GOOD}, "size"),
        ({"size": [6, 5], "counts": [31, -1]}, "do not tell 30 pixels"),
        ({"size": [6, 5], "counts": [2**62, 2**62, 2**62, 2**62]}, "do not tell"),
        ({"size": [6, 5], "counts": [2**70]}, "do not tell"),
        ({"size": [6, 5], "counts": [True, 29]}, "integers"),
        ({"size": [6, 5], "counts": ["15", "15"]}, "integers"),
        ({"size": [6, 5], "counts": [10, 10]}, "do not tell"),
        ({"size": [6, 5], "counts": [10.5, 19.5]}, "integers"),
        ({"size": [6, 5], "counts": [[30]]}, "integers"),
        ({"size": [6, 5], "counts": [[1], [1, 2]]}, "integers"),
        ({"size": [6, 5], "counts": []}, "do not tell|integers"),
        ({"size": [6, 5], "counts": None}, "neither"),
        ({"size": [6, 5]}, "size and counts"),
        ([[1, 2, 3]], "size and counts"),
    ],
)
def test_lying_encodings_are_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        run_lengths(segmentation, 6, 5)


@settings(max_examples=300, deadline=None)
@given(counts=st.binary(max_size=12))
def test_garbage_never_passes_unseen(counts):
    try:
        runs = run_lengths({"size": [6, 5], "counts": counts}, 6, 5)
    except ValueError:
        return
    assert runs.min() >= 0
    assert runs.sum() == 30
    decoded = coco_mask.decode({"size": [6, 5], "counts": counts})
    assert decoded.sum() == runs[1::2].sum()
