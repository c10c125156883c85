"""Annotations and masks made to mislead: each condemns its sample, at a bounded price, or does no
harm."""

import resource
import time

import numpy as np
import orjson
import pytest
from data_samples import box_mask, png, raw, region, rle, sample, smooth_image
from hostile_bytes import (
    FRAME,
    HEIGHT,
    PIXELS,
    SIZE,
    WIDTH,
    annotation,
    decode,
    detailed,
    mask,
    npy,
    shaped,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.decoding.decode import BadSampleError, decode_sample
from datamodules.shards.records import MAX_ANNOTATION_BYTES, MAX_REGIONS, encode_annotation
from tap_platform.config.data import ShardSource


def layout(**image):
    return orjson.dumps(
        {"image": {"width": SIZE[1], "height": SIZE[0], **image}, "annotations": []}
    )


class TestAnnotations:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"[" * 100_000 + b"]" * 100_000, "not JSON"),
            (b'{"a":' * 100_000, "not JSON"),
            (b'"' + b"a" * (MAX_ANNOTATION_BYTES + 1) + b'"', "limit"),
            (annotation(phrases=["a" * MAX_ANNOTATION_BYTES]), "limit"),
            (
                orjson.dumps({"image": {"width": 160, "height": 120}, "annotations": [{}] * 10**6}),
                f"1000000 regions; the limit is {MAX_REGIONS}",
            ),
            (b"\xff\xfe", "not JSON"),
            (b"NaN", "not JSON"),
            (b"7", "layout"),
            (b"{}", "layout"),
            (b'{"image": [], "annotations": []}', "layout"),
            (b'{"image": {"width": 160, "height": 120}, "annotations": {}}', "layout"),
            (layout(width="160"), "layout"),
            (layout(width=160.0), "layout"),
            (layout(width=True), "layout"),
            (layout(width=[160]), "layout"),
            (layout(width=2**63), "annotation says"),
            (layout(width=-160), "annotation says"),
            (annotation(bbox=None), "layout"),
            (annotation(bbox=[1, 2, 3]), "layout"),
            (annotation(bbox=[[1], 2, 3, 4]), "layout"),
            (annotation(bbox=["a", "b", "c", "d"]), "layout"),
            (annotation(bbox={"a": 1}), "layout"),
            (annotation(bbox="1234"), "layout"),
            (b'{"image": {"width": 160, "height": 120}, "annotations": [[], 3]}', "layout"),
        ],
    )
    def test_what_is_not_an_annotation_is_refused(self, data, message):
        with pytest.raises(BadSampleError, match=message):
            decode(annotation=data, priors=None)

    @pytest.mark.parametrize(
        "changes",
        [
            {"category": []},
            {"category": {"dog": 1}},
            {"category": 3},
            {"area": "large"},
            {"predicted_iou": None},
        ],
    )
    def test_what_is_not_needed_does_no_harm(self, changes):
        decoded = decode(annotation=annotation(**changes))
        assert len(decoded.masks) == 2
        assert ("category" not in changes) == (decoded.concepts >= 0).all()

    @pytest.mark.parametrize("box", [[1e308] * 4, [-1e308, -1e308, 1e308, 1e308], [None] * 4])
    def test_boxes_beyond_measure_cost_their_region(self, box):
        decoded = decode(annotation=annotation(bbox=box))
        assert (len(decoded.masks), decoded.dropped_regions) == (0, 2)
        without_mask = decode(annotation=annotation(bbox=box, segmentation=None))
        assert (len(without_mask.masks), without_mask.dropped_regions) == (0, 2)

    def test_reasons_are_short(self):
        with pytest.raises(BadSampleError) as caught:
            decode(annotation=annotation(bbox=["a" * 10**6] * 4))
        assert len(str(caught.value)) <= 500


class TestMasks:
    @pytest.mark.parametrize(
        "data",
        [
            mask(rle(box_mask(*SIZE, 1, 1, 9, 9))["counts"], size=[WIDTH, HEIGHT]),
            mask("", size=[10**9, 10**9]),
            mask("", size=["120", "160"]),
            mask("", size="ab"),
            mask("", size=None),
            mask("", size=[]),
            mask(""),
            mask("o" * 10_000),
            mask("0" * 100_000),
            mask("é" * 100),
            mask("\x00\x7f"),
            mask("\U0001f4a5"),
            mask(rle(box_mask(*SIZE, 1, 1, 9, 9))["counts"] + "1"),
            mask([PIXELS + 1]),
            mask([PIXELS, -1, 1]),
            mask([2**62, 2**62, 2**62, 2**62]),
            mask([float(PIXELS)]),
            mask([True] * PIXELS),
            mask([str(PIXELS)]),
            mask([[PIXELS]]),
            mask([None]),
            mask([]),
            mask({}),
            mask(PIXELS),
            annotation(segmentation=[[1, 2, 3, 4, 5, 6]]),
            annotation(segmentation={"counts": "a"}),
            annotation(segmentation=0),
            annotation(segmentation=""),
        ],
    )
    def test_masks_that_lie_are_refused(self, data):
        with pytest.raises(BadSampleError, match="mask"):
            decode(annotation=data)

    def test_many_empty_runs_are_read_in_time(self):
        counts = [PIXELS - 5000] + [0] * 10**6 + [5000]
        begin = time.process_time()
        decoded = decode(annotation=mask(counts))
        assert time.process_time() - begin < 2
        assert len(decoded.masks) == 2

    def test_a_corrupt_mask_that_is_not_met_is_not_read(self):
        good = region(box_mask(*SIZE, 4, 6, 80, 100))
        record = orjson.loads(
            encode_annotation(sample(regions=[good] * 9, height=HEIGHT, width=WIDTH))
        )
        record["annotations"][0]["segmentation"]["counts"] = "garbage"
        source = ShardSource(path="", regions_per_image=3)
        outcomes = set()
        for seed in range(20):
            data = raw(
                sample(height=HEIGHT, width=WIDTH), annotation=orjson.dumps(record), priors=None
            )
            try:
                decode_sample(data, seed, source, FRAME, {}, training=False)
            except BadSampleError:
                outcomes.add("condemned")
            else:
                outcomes.add("good")
        assert outcomes == {"condemned", "good"}


HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def nodes(value, path=()):
    """Paths to everything in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(inner, (*path, key))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), training=st.booleans(), seed=st.integers(0, 2**62))
def test_any_value_anywhere_in_the_json_does_no_more_than_condemn(data, training, seed):
    record = orjson.loads(annotation())
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from([path for path in nodes(record) if path]))
        place = record
        for key in path:
            place = place[key]
        place[last] = data.draw(HOSTILE)
    try:
        decoded = decode(seed, training, annotation=orjson.dumps(record), priors=None)
    except BadSampleError:
        return
    assert decoded.masks.any((1, 2)).all()
    assert np.isfinite(decoded.boxes).all()
    assert decoded.boxes.min(initial=0) >= 0
    assert decoded.boxes.max(initial=0) <= FRAME.size


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    part=st.sampled_from(["image", "png", "annotation", "priors"]),
    training=st.booleans(),
)
def test_any_damage_to_the_bytes_does_no_more_than_condemn(seed, part, training):
    rng = np.random.default_rng(seed)
    made = raw(sample(height=SIZE[0], width=SIZE[1]))
    if part == "png":
        made.image = png(Image.fromarray(smooth_image(*SIZE)))
    name = "image" if part == "png" else part
    data = bytearray(getattr(made, name))
    for place in rng.integers(0, min(len(data), rng.choice([40, 700, 10**9])), rng.integers(1, 6)):
        data[place] = rng.integers(0, 256)
    changes = {name: bytes(data[: rng.integers(0, len(data)) if rng.random() < 0.2 else None])}
    if part == "png" and name not in changes:
        changes["image"] = made.image
    try:
        decoded = decode(1, training, **changes)
    except BadSampleError:
        return
    assert decoded.pixels.shape == (64, 64, 3)


def test_hostile_samples_leave_no_memory_behind():
    bombs = [
        {"annotation": b"[" + b"[]," * 500_000 + b"[]]"},
        {
            "annotation": b'{"image": {"width": 160, "height": 120}, "annotations": []}'
            + b" " * 10**7
        },
        {"priors": npy(shaped("(1000000, 1000000)"))},
        {"image": detailed()[:-5000]},
    ]
    peaks = []
    for _ in range(3):
        for bomb in bombs:
            with pytest.raises(BadSampleError):
                decode(**bomb)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[2] - peaks[0] < 50_000  # KiB
