"""Damaged shards meet a training stream: batches shrink, the damage is counted, too much stops."""

from __future__ import annotations

import numpy as np
import pytest
from data_samples import sample

from datamodules.decoding.decode import Frame
from datamodules.order.plan import GlobalPlan
from datamodules.shards.index import DataIndex
from datamodules.shards.writer import ShardWriter
from datamodules.stream.decoder import Decoder
from datamodules.stream.quarantine import Quarantine, TooManyBadSamplesError
from datamodules.stream.sample_stream import EvaluationStream, TrainingStream
from tap_platform.config.data import ShardSource

FRAME = Frame(size=64, mask_size=16, concept_dim=4)
KEYS = {f"key{number}" for number in range(12)}


@pytest.fixture
def folder(tmp_path):
    """Two shards of 6 samples."""
    with ShardWriter(tmp_path / "train", 6) as writer:
        for number in range(12):
            writer.write(sample(f"key{number}", seed=number))
    return tmp_path / "train"


def decoder(quarantine, training=True):
    config = ShardSource(path="", reader_tasks=0, min_region_pixels=1)
    return Decoder(config, FRAME, {"cat": 0, "dog": 1}, quarantine, training=training)


def stream(folder, quarantine, steps=6, accumulation=1, rank=0, world_size=1, partitions=2):
    index = DataIndex.load(folder)
    order = {"seed": 0, "shuffle_window": 4, "partitions": partitions, "global_batch": partitions}
    return TrainingStream(
        index,
        GlobalPlan(index.counts, **order),
        decoder(quarantine),
        rank=rank,
        world_size=world_size,
        accumulation=accumulation,
        steps=range(steps),
    )


def cut_in_half(folder):
    """Cut the first shard; return the keys that are left."""
    index = DataIndex.load(folder)
    path = index.path(0)
    path.write_bytes(path.read_bytes()[: index.members(0, 3).image[0] + 100])
    return KEYS - {index.members(0, number).key for number in range(3, 6)}


def test_a_whole_epoch_is_read_without_fault(folder):
    quarantine = Quarantine(0.0, 0)
    batches = list(stream(folder, quarantine))
    assert {key for batch in batches for key in batch.keys} == KEYS
    assert [len(batch.keys) for batch in batches] == [2] * 6
    assert (quarantine.seen, quarantine.samples) == (12, [])


def test_a_worker_with_fewer_partitions_takes_as_many_micro_batches(folder):
    quarantine = Quarantine(0.0, 0)
    ranks = [
        list(stream(folder, quarantine, 4, accumulation=2, rank=r, world_size=2, partitions=3))
        for r in range(2)
    ]
    assert [len(rank) for rank in ranks] == [8, 8]
    assert {key for rank in ranks for batch in rank for key in batch.keys} == KEYS | {""}
    assert all(batch.keys != [""] for batch in ranks[0])
    for image, stand_in in zip(ranks[1][::2], ranks[1][1::2], strict=True):
        assert (len(image.keys), stand_in.keys, stand_in.weights.tolist()) == (1, [""], [0])
        assert (stand_in.counts.samples_seen, stand_in.step_regions) == (0, image.step_regions)
        np.testing.assert_array_equal(stand_in.pixels, image.pixels)
    assert (quarantine.seen, quarantine.samples) == (12, [])


def test_a_shard_cut_in_half_is_quarantined_and_counted(folder):
    left = cut_in_half(folder)
    quarantine = Quarantine(0.5, grace=10)
    batches = list(stream(folder, quarantine))
    assert len(batches) == 6
    weighty = {key for batch in batches if batch.weights.any() for key in batch.keys}
    assert weighty == left
    assert quarantine.seen == 12
    assert {bad.key for bad in quarantine.samples} == KEYS - left
    assert {bad.shard for bad in quarantine.samples} == {"shard-000000.tar"}
    assert all("the shard was cut" in bad.reason for bad in quarantine.samples)


def test_too_many_bad_samples_stop_the_stream_with_a_message(folder):
    cut_in_half(folder)
    with pytest.raises(TooManyBadSamplesError, match=r"shard-000000\.tar: key[345]: the shard was"):
        list(stream(folder, Quarantine(0.0, grace=1)))


def test_a_batch_of_bad_samples_only_is_blank_and_without_weight(folder):
    for path in folder.glob("*.tar"):
        path.unlink()
    quarantine = Quarantine(1.0, grace=0)
    batches = list(stream(folder, quarantine))
    assert len(batches) == 6
    assert not any(batch.weights.any() for batch in batches)
    assert len(quarantine.samples) == 12


def test_where_a_micro_batch_is_bad_a_good_sample_of_the_step_stands_in(folder):
    whole = list(stream(folder, Quarantine(1.0, 0), accumulation=2))
    cut_in_half(folder)
    damaged = list(stream(folder, Quarantine(1.0, 0), accumulation=2))
    stood_in = 0
    for place, (batch, sound) in enumerate(zip(damaged, whole, strict=True)):
        assert batch.counts.samples_seen == 1
        if batch.keys != [""]:
            np.testing.assert_array_equal(batch.pixels, sound.pixels)
            continue
        assert batch.counts.samples_quarantined == 1
        assert (batch.weights.tolist(), batch.position) == ([0], sound.position)
        other = damaged[place ^ 1]
        assert batch.step_regions == other.step_regions
        if other.keys != [""]:
            stood_in += 1
            np.testing.assert_array_equal(batch.pixels, other.pixels)
            assert batch.sizes.tolist() == other.sizes.tolist()
    assert stood_in


def test_damage_does_not_move_the_other_samples(folder):
    whole = {key: batch for batch in stream(folder, Quarantine(1.0, 0)) for key in batch.keys}
    left = cut_in_half(folder)
    for batch in stream(folder, Quarantine(1.0, 0)):
        for slot, key in enumerate(batch.keys):
            if key in left:
                twin = whole[key]
                place = twin.keys.index(key)
                assert batch.position == twin.position
                np.testing.assert_array_equal(batch.pixels[slot], twin.pixels[place])


def test_held_out_shards_that_are_cut_are_looked_at_as_far_as_they_go(folder):
    left = cut_in_half(folder)
    quarantine = Quarantine(1.0, 0)
    looking = EvaluationStream(DataIndex.load(folder), decoder(quarantine, training=False), batch=5)
    batches = list(looking)
    assert (len(looking), len(batches)) == (3, 3)
    assert {key for batch in batches for key in batch.keys} == left
    assert len(quarantine.samples) == 3


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("images", [None, 7])
def test_every_number_of_workers_looks_at_the_same_held_out_images(folder, world_size, images):
    index, quarantine = DataIndex.load(folder), Quarantine(0.0, 0)
    place = {"batch": 2, "images": images, "world_size": world_size}
    ranks = [
        EvaluationStream(index, decoder(quarantine, training=False), rank=rank, **place)
        for rank in range(world_size)
    ]
    assert len({len(rank) for rank in ranks}) == 1
    batches = [list(rank) for rank in ranks]
    assert {len(rank) for rank in batches} == {len(ranks[0])}
    seen = [key for rank in batches for b in rank for key in b.keys if b.weights.any()]
    alone = EvaluationStream(index, decoder(quarantine, training=False), batch=100, images=images)
    (whole,) = alone
    assert sorted(seen) == sorted(whole.keys)
    assert len(seen) == (images or 12)
