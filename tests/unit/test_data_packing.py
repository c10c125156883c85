"""What a data task decodes and ships is what a worker decodes itself, bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from data_samples import box_mask, jpeg, raw, region, sample

from datamodules.decoding.decode import DecodedSample, Frame, decode_sample
from datamodules.shards.records import BadSample
from datamodules.stream.blocks import decode_block, encode_block
from datamodules.stream.packing import PackedSample, pack, unpack
from datamodules.stream.reading import SeededSample
from datamodules.stream.slots import DecodedGroup, Slots
from tap_platform.config.data import ShardSource

FRAME = Frame(size=64, mask_size=16, concept_dim=4)
SOURCE = ShardSource(path="", min_region_pixels=1, regions_per_image=3)


def decode(made, seed=1, training=True, pixels=None, masks=None):
    return decode_sample(
        raw(made),
        seed,
        SOURCE,
        FRAME,
        {"dog": 0, "cat": 1},
        training=training,
        pixels=pixels,
        masks=masks,
    )


def assert_equal(one, other):
    for field in dataclasses.fields(DecodedSample):
        value, wanted = getattr(one, field.name), getattr(other, field.name)
        if isinstance(wanted, np.ndarray):
            assert value.dtype == wanted.dtype, field.name
            np.testing.assert_array_equal(value, wanted, err_msg=field.name)
        else:
            assert value == wanted, field.name


def slots():
    """Memory full of what was there before."""
    return np.full((64, 64, 3), 7, np.uint8), np.ones((3, 16, 16), bool)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("into_slots", [True, False])
def test_a_packed_sample_is_the_same_sample(seed, into_slots):
    decoded = decode(sample(seed=seed), seed)
    packed = PackedSample("shard", "a", pack(decoded))
    assert_equal(unpack(packed, FRAME, *(slots() if into_slots else ())), decoded)


def test_samples_without_regions_or_priors_are_packed():
    for made in (sample(regions=[]), dataclasses.replace(sample(), priors=None)):
        decoded = decode(made)
        assert_equal(unpack(PackedSample("s", "a", pack(decoded)), FRAME), decoded)


def test_phrases_of_any_script_travel():
    said = ["a 🐕 on 'grass'", 'the "left" one', "كلب بني", "\x7f", ""]
    decoded = dataclasses.replace(decode(sample()), phrases=[tuple(said), ()], dropped_phrases=3)
    packed = PackedSample("s", "a", memoryview(pack(decoded)))
    assert_equal(unpack(packed, FRAME), decoded)


def test_priors_that_float16_cannot_hold_travel_whole():
    decoded = decode(sample())
    exact = dataclasses.replace(decoded, priors=decoded.priors + np.float32(1e-5))
    assert len(pack(exact)) > len(pack(decoded))
    assert_equal(unpack(PackedSample("s", "a", pack(exact)), FRAME), exact)


def test_only_the_picture_travels_not_the_padding():
    wide = sample(height=16, width=64, regions=[region(box_mask(16, 64, 2, 2, 40, 14))])
    decoded = decode(wide, training=False)
    assert decoded.size == (16, 64)
    assert len(pack(decoded)) < 16 * 64 * 3 + 16 * 16 // 8 + 300
    assert_equal(unpack(PackedSample("s", "a", pack(decoded)), FRAME, *slots()), decoded)


def test_a_block_gives_back_what_was_put_in():
    whole = raw(sample())
    empty = dataclasses.replace(whole, key="b", priors=b"")
    without = dataclasses.replace(whole, key="c", image=jpeg(seed=3), priors=None)
    bad = BadSample("shard-000001.tar", "d", "the shard was cut")
    packed = PackedSample("shard", "e", pack(decode(sample())))
    rows = [SeededSample(2**62 + n, each) for n, each in enumerate((whole, empty, without, bad))]
    rows.append(SeededSample(5, packed))
    table = encode_block(rows)
    assert list(decode_block(table)) == rows
    assert list(decode_block(table.slice(1, 3))) == rows[1:4]


def test_what_is_packed_in_a_block_is_not_copied_out_of_it():
    rows = [SeededSample(n, PackedSample("s", str(n), bytes([n]) * 9)) for n in range(3)]
    table = encode_block(rows)
    data = np.frombuffer(table.column("data").chunk(0).buffers()[2], np.uint8)
    for row, place in zip(decode_block(table), range(3), strict=True):
        assert np.shares_memory(np.frombuffer(row.sample.data, np.uint8), data[9 * place :])


@pytest.mark.parametrize("bad", [(), (0,), (2,), (0, 1), (1, 3), (0, 1, 2, 3)])
def test_gaps_are_closed_in_place(bad):
    made = [sample(str(n), seed=n) for n in range(3)] + [sample("3", regions=[])]
    room = Slots.make(4, FRAME, regions=3)
    room.pixels[:], room.masks[:] = 9, True
    results = [
        BadSample("s", str(n), "broken")
        if n in bad
        else decode(each, n, pixels=room.pixels[n], masks=room.masks[n])
        for n, each in enumerate(made)
    ]
    expected = [decode(each, n) for n, each in enumerate(made) if n not in bad]
    group = DecodedGroup(room, results)
    assert group.regions == sum(len(each.masks) for each in expected)
    pixels, masks = group.close_gaps()
    assert np.shares_memory(pixels, room.pixels) == bool(expected)
    np.testing.assert_array_equal(pixels, [each.pixels for each in expected] or pixels)
    np.testing.assert_array_equal(
        masks, np.concatenate([np.zeros((0, 16, 16), bool), *(each.masks for each in expected)])
    )
