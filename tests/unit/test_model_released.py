from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tap_platform.models import Tap, TapConfig, load_released_weights
from tap_platform.models.image_encoder import resize_positions
from tap_platform.models.released import from_released, read_weights, to_released

SMALL = TapConfig.preset("tiny", image_size=128)
POSITIONS = "image_encoder.pos_embed.weight"


@pytest.fixture(scope="module")
def tap():
    torch.manual_seed(0)
    made = Tap(SMALL).eval()
    made.pixel_mean += torch.tensor([0.25, 0.5, 0.75])
    return made


@pytest.fixture(scope="module")
def released(tap):
    return to_released(tap.state_dict())


def as_arrays(state):
    return {name: tensor.numpy() for name, tensor in state.items()}


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def assert_same(state, expected):
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


def test_a_round_trip_keeps_every_bit(tap, released):
    assert_same(from_released(released), tap.state_dict())
    changed = {name for name in released if not torch.equal(released[name], tap.state_dict()[name])}
    assert changed == {"pixel_mean", "pixel_rsig", "image_encoder.patch_embed.proj.weight"}


def test_rgb_in_our_model_is_bgr_in_the_released_one(tap, released):
    official = Tap(SMALL).eval()
    official.load_state_dict(released)
    pixels = torch.randint(256, (2, 3, 128, 128), dtype=torch.uint8)
    ours = tap.encode(tap.normalize(pixels))
    theirs = official.encode(official.normalize(pixels.flip(1)))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_load(tmp_path, tap, released, protocol):
    path = write(tmp_path / "tap.pkl", as_arrays(released), protocol)
    assert_same(load_released_weights(path).state_dict(), tap.state_dict())


def test_pickles_from_before_numpy_2_load(tmp_path):
    path = tmp_path / "old.pkl"
    content = pickle.dumps({"a": np.arange(3.0), "b": np.int64(7)}, 2)
    path.write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    assert {name: x.tolist() for name, x in read_weights(path).items()} == {"a": [0, 1, 2], "b": 7}


def test_safetensors_and_torch_files_load(tmp_path, tap, released):
    save_file({k: v.contiguous() for k, v in released.items()}, tmp_path / "tap.safetensors")
    torch.save(released, tmp_path / "tap.pth")
    for name in ("tap.safetensors", "tap.pth"):
        loaded = load_released_weights(tmp_path / name, SMALL)
        assert_same(loaded.state_dict(), tap.state_dict())
        assert loaded.config == SMALL


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_becomes_float32(tmp_path, released, dtype):
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in released.items()}
    torch.save(cast, tmp_path / "tap.pth")
    loaded = load_released_weights(tmp_path / "tap.pth")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert_same(
        to_released(loaded.state_dict()), {k: cast[k].to(v.dtype) for k, v in released.items()}
    )


def test_a_loaded_model_trains(tmp_path, released):
    torch.save(released, tmp_path / "tap.pth")
    loaded = load_released_weights(tmp_path / "tap.pth").train()
    loaded.encode(torch.randn(1, 3, 128, 128)).square().mean().backward()
    assert loaded.image_encoder.pos_embed.weight.grad.any()


def test_the_preset_and_the_image_size_are_recognized(tmp_path, released):
    torch.save(released, tmp_path / "tap.pth")
    assert load_released_weights(tmp_path / "tap.pth").config == SMALL


def test_positions_are_resized_to_the_image_size_of_the_config(tmp_path, released):
    torch.save(released, tmp_path / "tap.pth")
    loaded = load_released_weights(tmp_path / "tap.pth", TapConfig.preset("tiny", image_size=256))
    expected = resize_positions(released[POSITIONS], (16, 16))
    assert torch.equal(loaded.state_dict()[POSITIONS], expected)
    assert loaded.encode(torch.randn(1, 3, 256, 256)).shape[-1] == 16


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    "content",
    [{"a": Evil()}, {"a": np.array([Evil()], dtype=object)}, Evil()],
    ids=["value", "in an array", "whole"],
)
def test_a_pickle_that_asks_to_run_code_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "evil.pkl", content)
    with pytest.raises(ValueError, match=r"evil.pkl cannot be read.*system.*only numpy arrays"):
        load_released_weights(path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": "text"}, "a is not an array"),
        ({"a": np.array(["text"])}, "a is not an array"),
        ({"a": np.array([None])}, "a is not an array"),
        ({1: np.zeros(2)}, "1 is a Tensor"),
        ([np.zeros(2)], "holds a list"),
    ],
)
def test_a_pickle_of_other_things_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_released_weights(write(tmp_path / "other.pkl", content))


def test_a_torch_file_that_asks_to_run_code_is_refused(tmp_path):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        load_released_weights(tmp_path / "evil.pth")


@pytest.mark.parametrize("name", ["cut.pkl", "cut.safetensors", "cut.pth"])
def test_a_broken_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02broken")
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        load_released_weights(tmp_path / name)


def test_every_difference_is_listed(tmp_path, released):
    state = dict(released)
    del state["prompt_encoder.coord_matrix"]
    state["surprise"] = torch.zeros(1)
    state["pixel_mean"] = torch.zeros(4)
    torch.save(state, tmp_path / "tap.pth")
    with pytest.raises(ValueError, match="3 differences") as caught:
        load_released_weights(tmp_path / "tap.pth")
    for line in (
        "missing: prompt_encoder.coord_matrix",
        "unexpected: surprise",
        r"wrong shape: pixel_mean is [4], the model has [3]",
    ):
        assert line in str(caught.value)


def test_an_unknown_size_asks_for_a_config(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "tap.pth")
    with pytest.raises(ValueError, match=r"no preset.*give its config"):
        load_released_weights(tmp_path / "tap.pth")
