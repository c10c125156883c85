import io

import numpy as np
import pytest
from data_samples import box_mask, jpeg, png, raw, region, rle, sample, smooth_image
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.priors.crops import CropRule, crop_region, crop_regions
from datamodules.shards.records import decode_annotation

RULE = CropRule(32, (122, 116, 104), 0.0, False, "aspect", "bicubic")
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}


def plainly_cropped(pixels, mask, rule):
    """The docstring's four steps with pycocotools' masks and Pillow's own cropping and pasting."""
    height, width = mask.shape
    left, top, across, down = map(int, coco_mask.toBbox(rle(mask)))
    more_x, more_y = int(np.ceil(rule.context * across)), int(np.ceil(rule.context * down))
    box = (
        max(0, left - more_x),
        max(0, top - more_y),
        min(width, left + across + more_x),
        min(height, top + down + more_y),
    )
    picture = Image.fromarray(pixels)
    if not rule.keep_background:
        empty = Image.new("RGB", picture.size, rule.colour)
        picture = Image.composite(picture, empty, Image.fromarray(mask))
    crop = picture.crop(box)
    scale = rule.size / max(crop.size)
    size = tuple(max(1, int(side * scale + 0.5)) for side in crop.size)
    if rule.fit == "stretch":
        size = (rule.size, rule.size)
    canvas = Image.new("RGB", (rule.size, rule.size), rule.colour)
    resized = crop.resize(size, FILTERS[rule.interpolation])
    canvas.paste(resized, tuple((rule.size - side) // 2 for side in size))
    return np.asarray(canvas)


def blobs(height, width, seed):
    """Ragged masks of any size, some at the border, one with holes."""
    draws = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(6):
        y, x = draws.uniform(0, height), draws.uniform(0, width)
        far = ((rows - y) / draws.uniform(2, height)) ** 2
        mask = far + ((columns - x) / draws.uniform(2, width)) ** 2 < draws.uniform(0.05, 1)
        yield mask & (draws.random((height, width)) < 0.9)


@pytest.mark.parametrize(
    "rule",
    [
        RULE,
        RULE._replace(colour=(0, 0, 0), interpolation="bilinear"),
        RULE._replace(context=0.3, fit="stretch", interpolation="box"),
        RULE._replace(context=0.25, keep_background=True, size=48),
    ],
)
def test_crops_are_those_of_a_plain_implementation(rule):
    pixels = np.ascontiguousarray(smooth_image(70, 50, seed=3))
    seen = 0
    for mask in blobs(70, 50, seed=1):
        if not mask.any():
            continue
        found = crop_region(pixels, region(mask), rule)
        np.testing.assert_array_equal(found, plainly_cropped(pixels, mask, rule))
        seen += 1
    assert seen >= 4


def test_a_red_square_stands_on_an_empty_canvas():
    pixels = np.full((40, 60, 3), 200, np.uint8)
    pixels[10:30, 5:15] = (255, 0, 0)
    found = crop_region(pixels, region(box_mask(40, 60, 5, 10, 15, 30)), RULE)
    expected = np.empty((32, 32, 3), np.uint8)
    expected[:] = RULE.colour
    expected[:, 8:24] = (255, 0, 0)
    np.testing.assert_array_equal(found, expected)


def test_a_region_without_a_mask_shows_its_box():
    pixels = np.ascontiguousarray(smooth_image(40, 60))
    boxed = region(box_mask(40, 60, 0, 0, 1, 1), segmentation=None, box=(4.6, 9.2, 10.1, 20.5))
    found = crop_region(pixels, boxed, RULE)
    whole = box_mask(40, 60, 4, 9, 15, 30)
    np.testing.assert_array_equal(found, plainly_cropped(pixels, whole, RULE))
    outside = region(whole, segmentation=None, box=(70.0, 9.0, 10.0, 20.0))
    assert crop_region(pixels, outside, RULE) is None
    flat = region(whole, segmentation=None, box=(4.0, 9.0, 0.0, 20.0))
    assert crop_region(pixels, flat, RULE) is None
    endless = region(whole, segmentation=None, box=(4.0, 9.0, float("inf"), 20.0))
    assert crop_region(pixels, endless, RULE) is None


@pytest.mark.parametrize("keep_background", [True, False])
def test_masks_that_show_nothing_give_no_crop(keep_background):
    rule = RULE._replace(keep_background=keep_background, context=0.5)
    pixels = np.ascontiguousarray(smooth_image(40, 60))
    good = box_mask(40, 60, 5, 10, 15, 30)
    for bad in (
        region(np.zeros((40, 60), bool)),
        region(good, segmentation={"size": [40, 60], "counts": "!!"}),
        region(good, segmentation={"size": [60, 40], "counts": rle(good)["counts"]}),
    ):
        assert crop_region(pixels, bad, rule) is None


def test_a_sample_has_a_crop_for_each_annotation_in_order():
    masks = [box_mask(48, 64, 4, 6, 30, 40), box_mask(48, 64, 20, 10, 60, 30)]
    regions = [region(masks[0]), region(np.zeros((48, 64), bool)), region(masks[1])]
    given = raw(sample(regions=regions))
    first, none, second = crop_regions(given, RULE)
    pixels = np.asarray(Image.open(io.BytesIO(given.image)))
    assert none is None
    for found, mask in ((first, masks[0]), (second, masks[1])):
        difference = found.astype(int) - plainly_cropped(pixels, mask, RULE)
        assert np.abs(difference).max() <= 2  # two decoders of one JPEG
    assert len(decode_annotation(given.annotation).regions) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": b"no image"}, "neither a JPEG nor a PNG"),
        ({"image": jpeg()[:200]}, "header of the JPEG is broken"),
        ({"image": png(Image.new("RGB", (10, 10)))}, "10 x 10 pixels"),
        ({"annotation": b"{}"}, "SA-1B's layout"),
    ],
)
def test_a_broken_sample_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        crop_regions(raw(sample(), **change), RULE)
