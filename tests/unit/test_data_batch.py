import numpy as np
import torch
from data_samples import box_mask, raw, region, sample

from datamodules.decoding.decode import Frame, blank_sample, decode_sample
from datamodules.order.plan import Position
from datamodules.stream.batch import collate
from tap_platform.config.data import ShardSource

FRAME = Frame(size=64, mask_size=16, concept_dim=4)


def decode(made, seed=1, pixels=None):
    source = ShardSource(path="", min_region_pixels=1)
    return decode_sample(
        raw(made), seed, source, FRAME, {"dog": 0, "cat": 1}, training=False, pixels=pixels
    )


def test_samples_become_tensors_of_the_agreed_shapes():
    one = decode(sample("a"), seed=7)
    none = decode(sample("b", regions=[]), seed=8)
    three = decode(sample("c", regions=[region(box_mask(48, 64, 1, 1, 9, 9))] * 3), seed=2**62)
    batch = collate([one, none, three], Position(1, 2))
    expected = {
        "pixels": ((3, 3, 64, 64), torch.uint8),
        "masks": ((5, 16, 16), torch.bool),
        "has_mask": ((5,), torch.bool),
        "boxes": ((5, 4), torch.float32),
        "image_index": ((5,), torch.int64),
        "priors": ((5, 4), torch.float32),
        "has_prior": ((5,), torch.bool),
        "concepts": ((5,), torch.int64),
        "weights": ((5,), torch.float32),
        "seeds": ((3,), torch.int64),
        "sizes": ((3, 2), torch.int64),
    }
    for name, (shape, dtype) in expected.items():
        tensor = getattr(batch, name)
        assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype), name
    assert batch.image_index.tolist() == [0, 0, 2, 2, 2]
    assert batch.weights.tolist() == [1] * 5
    assert batch.seeds.tolist() == [7, 8, 2**62]
    assert batch.sizes.tolist() == [[48, 64]] * 3
    assert batch.keys == ["a", "b", "c"]
    assert batch.position == Position(1, 2)
    np.testing.assert_array_equal(batch.pixels[0].permute(1, 2, 0), one.pixels)
    np.testing.assert_array_equal(batch.masks[2:], three.masks)
    np.testing.assert_array_equal(batch.priors[:2], one.priors)


def test_a_batch_without_regions_holds_a_placeholder_without_weight():
    batch = collate([blank_sample(FRAME), decode(sample(regions=[]))], Position())
    assert batch.weights.tolist() == [0]
    assert batch.image_index.tolist() == [0]
    assert batch.concepts.tolist() == [-1]
    assert batch.concepts.dtype == torch.int64
    assert batch.boxes.tolist() == [[0, 0, 64, 64]]
    assert batch.masks.shape == (1, 16, 16)
    assert batch.masks.all()
    assert batch.priors.shape == (1, 4)
    assert not batch.has_prior.any()


def test_a_buffer_that_was_decoded_into_is_not_copied():
    buffer = np.zeros((2, 64, 64, 3), np.uint8)
    samples = [decode(sample(seed=i), pixels=buffer[i]) for i in range(2)]
    batch = collate(samples, Position(), pixels=buffer)
    copied = collate(samples, Position())
    assert batch.pixels.data_ptr() == buffer.ctypes.data
    assert torch.equal(batch.pixels, copied.pixels)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_moves_whole():
    batch = collate([decode(sample())], Position(3, 4)).to("meta")
    assert batch.pixels.device.type == batch.sizes.device.type == "meta"
    assert batch.position == Position(3, 4)
    assert batch.keys == ["a"]
