import numpy as np
import pytest
from data_samples import box_mask, jpeg, png, raw, region, rle, sample, smooth_image
from PIL import Image

from datamodules.decoding.decode import (
    BadSampleError,
    Frame,
    blank_sample,
    decode_sample,
)
from datamodules.decoding.pictures import PAD_COLOUR
from datamodules.decoding.placement import Placement, affine_of, draw_placement, place
from datamodules.shards.records import encode_annotation, encode_priors
from tap_platform.config.data import ShardSource
from tap_platform.config.model import TapConfig
from tap_platform.config.stream import ScaleJitterConfig

FRAME = Frame(size=64, mask_size=16, concept_dim=4)
CONCEPTS = {"dog": 0, "cat": 1}


def config(**changes):
    return ShardSource(path="", **{"min_region_pixels": 1, **changes})


def decode(sample_bytes, seed=5, training=False, frame=FRAME, settings=None, **changes):
    settings = settings or config(**changes)
    return decode_sample(sample_bytes, seed, settings, frame, CONCEPTS, training=training)


def test_evaluation_fits_the_long_side_and_pads_right_and_below():
    decoded = decode(raw(sample()))
    assert decoded.size == (48, 64)
    assert np.abs(decoded.pixels[:48].astype(int) - smooth_image()).mean() < 4
    assert (decoded.pixels[48:] == PAD_COLOUR).all()


def test_regions_carry_their_own_box_mask_prior_and_concept():
    made = sample()
    decoded = decode(raw(made))
    assert sorted(decoded.concepts.tolist()) == [0, 1]
    for slot, concept in enumerate(decoded.concepts):
        number = 1 - concept
        left, top, width, height = made.regions[number].box
        np.testing.assert_allclose(decoded.boxes[slot], [left, top, left + width, top + height])
        np.testing.assert_array_equal(decoded.priors[slot], made.priors[number])
        rows, columns = (
            slice(round(top / 4), round((top + height) / 4)),
            slice(int(left / 4) + 1, int((left + width) / 4)),
        )
        assert decoded.masks[slot, rows, columns].all()
    assert decoded.has_prior.all()
    assert decoded.priors.dtype == np.float32


def test_decoding_is_a_function_of_the_seed():
    made = raw(sample())
    one, again, other = (decode(made, seed, training=True) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.pixels, again.pixels)
    np.testing.assert_array_equal(one.masks, again.masks)
    assert one.size != other.size


def test_pixels_and_masks_move_together():
    # Each region is one colour of its own, so its mask must show where that colour went.
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, 40:] = (0, 0, 255)
    image[20:50, 10:40] = (255, 0, 0)
    made = sample(regions=[region(box_mask(60, 80, 10, 20, 40, 50))], height=60, width=80)
    made.image = png(Image.fromarray(image))
    settings = config(jitter={"flip_probability": 0.5})
    mirrored = set()
    for seed in range(30):
        decoded = decode(raw(made), seed, training=True, settings=settings)
        red = decoded.pixels[..., 0].astype(float) - decoded.pixels[..., 1]
        share = (red > 127).reshape(16, 4, 16, 4).mean((1, 3))
        if not len(decoded.masks):
            assert share.max() < 0.5
            continue
        sure = np.abs(share - 0.5) > 0.3
        np.testing.assert_array_equal(decoded.masks[0][sure], share[sure] > 0.5)
        rows, columns = np.flatnonzero((red > 127).any(1)), np.flatnonzero((red > 127).any(0))
        edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(decoded.boxes[0] - edges).max() <= 1.5
        placement = draw_placement(60, 80, 64, settings.jitter, seed)
        assert placement.visible(64) == decoded.size
        mirrored.add(placement.mirrored)
    assert mirrored == {False, True}


def test_jitter_covers_its_range_and_the_crop_stays_inside():
    jitter = ScaleJitterConfig()
    drawn = [draw_placement(500, 1000, 64, jitter, seed) for seed in range(500)]
    widths = [each.width for each in drawn]
    assert 32 <= min(widths) < 36
    assert 124 < max(widths) <= 128
    assert all(0 <= each.left <= max(0, each.width - 64) for each in drawn)
    assert all(0 <= each.top <= max(0, each.height - 64) for each in drawn)
    assert any(each.left > 40 for each in drawn)
    assert all(abs(each.height * 2 - each.width) <= 1 for each in drawn)


def test_a_placement_maps_pixels_as_it_says():
    placement = place(30, 60, 64)
    assert placement == Placement(32, 64, 0, 0, False)
    assert affine_of(placement, 30, 60, 64) == (64 / 60, 32 / 30, 0, 0)
    cut = Placement(128, 128, 10, 20, True)
    scale_x, scale_y, offset_x, offset_y = affine_of(cut, 64, 64, 64)
    assert scale_x * (10 / 2) + offset_x == 64
    assert scale_y * (20 / 2) + offset_y == 0


def test_no_more_regions_than_asked_for_and_which_is_drawn_by_chance():
    made = raw(
        sample(regions=[region(box_mask(48, 64, 4 * i, 0, 4 * i + 4, 40)) for i in range(9)])
    )
    drawn = [decode(made, seed, regions_per_image=3) for seed in range(8)]
    assert {len(each.masks) for each in drawn} == {3}
    assert len({tuple(each.boxes[:, 0]) for each in drawn}) > 4


def test_small_regions_are_passed_over_for_others():
    regions = [region(box_mask(48, 64, 4 * i, 0, 4 * i + 1, 2)) for i in range(9)]
    regions.append(region(box_mask(48, 64, 40, 0, 60, 40), "dog"))
    decoded = decode(raw(sample(regions=regions)), regions_per_image=2, min_region_pixels=16)
    assert decoded.concepts.tolist() == [0]
    assert decoded.dropped_regions == 0


def test_faulty_regions_are_dropped_and_counted():
    good = box_mask(48, 64, 4, 6, 30, 40)
    regions = [
        region(good),
        region(np.zeros((48, 64), bool), box=(1.0, 1.0, 5.0, 5.0), area=25.0),
        region(good, box=(70.0, 0.0, 10.0, 10.0)),
        region(good, box=(5.0, 5.0, 0.0, 10.0)),
        region(good, box=(5.0, float("nan"), 5.0, 10.0)),
    ]
    decoded = decode(raw(sample(regions=regions[:4])))
    assert len(decoded.masks) == 1
    assert decoded.dropped_regions == 3


def test_a_sample_without_regions_or_priors_is_fine():
    decoded = decode(raw(sample(regions=[]), priors=None))
    assert decoded.masks.shape == (0, 16, 16)
    bare = decode(raw(sample(), priors=None))
    assert not bare.has_prior.any()
    assert bare.priors.shape == (2, 4)
    assert not bare.priors.any()


def test_an_unknown_category_has_no_concept():
    made = sample(regions=[region(box_mask(48, 64, 4, 6, 30, 40), None)])
    assert decode(raw(made)).concepts.tolist() == [-1]


def test_a_region_without_a_mask_has_its_box_for_one():
    regions = [
        region(box_mask(48, 64, 4, 8, 32, 40), "cat", segmentation=None),
        region(box_mask(48, 64, 20, 12, 60, 28), "dog"),
    ]
    decoded = decode(raw(sample(regions=regions)))
    assert decoded.has_mask.tolist() == [concept == 0 for concept in decoded.concepts]
    slot = int(decoded.concepts.argmax())
    assert decoded.boxes[slot].tolist() == [4, 8, 32, 40]
    np.testing.assert_array_equal(decoded.masks[slot], box_mask(16, 16, 1, 2, 8, 10))


def test_given_masks_are_filled_from_the_front():
    made = raw(sample())
    buffer = np.ones((2, 64, 16, 16), bool)
    decoded = decode_sample(made, 5, config(), FRAME, CONCEPTS, training=False, masks=buffer[1])
    assert np.shares_memory(decoded.masks, buffer)
    np.testing.assert_array_equal(decoded.masks, decode(made).masks)
    assert buffer[0].all()
    assert buffer[1, 2:].all()


def test_a_given_buffer_is_filled_in_place():
    buffer = np.full((2, 64, 64, 3), 9, np.uint8)
    decoded = decode_sample(
        raw(sample()), 5, config(), FRAME, CONCEPTS, training=True, pixels=buffer[1]
    )
    assert np.shares_memory(decoded.pixels, buffer)
    np.testing.assert_array_equal(buffer[1], decode(raw(sample()), training=True).pixels)
    assert (buffer[0] == 9).all()


def lying(**changes):
    made = sample()
    for name, value in changes.items():
        setattr(made, name, value)
    return encode_annotation(made)


def corrupt_mask():
    made = sample()
    for each in made.regions:
        each.segmentation = {**each.segmentation, "counts": "garbage"}
    return encode_annotation(made)


def other_size_mask():
    made = sample()
    for each in made.regions:
        each.segmentation = rle(box_mask(40, 64, 1, 1, 9, 9))
    return encode_annotation(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": jpeg()[:-300]}, "cannot be decoded"),
        ({"image": b"\xff\xd8\xff"}, ""),
        ({"image": b""}, "neither a JPEG nor a PNG"),
        ({"image": jpeg(1, 1), "annotation": lying(width=1, height=1)}, "1 x 1 pixels"),
        ({"annotation": lying(width=48, height=64)}, "annotation says 64 x 48"),
        ({"annotation": b"{"}, "not JSON"),
        ({"annotation": corrupt_mask()}, "compressed counts"),
        ({"annotation": other_size_mask()}, r"mask is of size \[40, 64\]"),
        ({"priors": encode_priors(np.full((2, 4), np.nan))}, "NaN"),
        ({"priors": encode_priors(np.zeros((3, 4)))}, r"shape \[3, 4\]"),
        ({"priors": encode_priors(np.zeros((2, 5)))}, "concept_dim"),
        ({"priors": b"garbage"}, "not a numpy array"),
    ],
)
@pytest.mark.filterwarnings("ignore:matching against an empty string")
def test_bad_samples_are_condemned_with_a_reason(changes, message):
    with pytest.raises(BadSampleError, match=message):
        decode(raw(sample(), **changes))


def test_extreme_shapes_decode():
    for height, width in ((2, 300), (300, 2), (2, 2)):
        made = sample(regions=[region(np.ones((height, width), bool))], height=height, width=width)
        for training in (False, True):
            decoded = decode(raw(made), training=training)
            assert decoded.pixels.shape == (64, 64, 3)
            assert decoded.masks.any()


def test_a_blank_sample_has_no_region():
    blank = blank_sample(FRAME)
    assert (blank.pixels == PAD_COLOUR).all()
    assert blank.masks.shape == (0, 16, 16)


def test_a_frame_has_the_shapes_of_its_model():
    assert Frame.of(TapConfig.preset("tiny")) == Frame(256, 64, 64)
