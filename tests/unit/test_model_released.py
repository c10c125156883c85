from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tap_platform.models import Tap, TapConfig, load_released_weights
from tap_platform.models.image_encoder import resize_positions
from tap_platform.models.released import (
    from_released,
    read_weights,
    recognize,
    save_released_weights,
    to_released,
)

TINY = TapConfig.preset("tiny")
SIDE = TINY.image_size // 2
SMALL = TINY.replaced(image_size=SIDE)
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
    pixels = torch.randint(256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
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


def test_the_order_of_bytes_is_kept(tmp_path):
    arrays = {"a": np.arange(3, dtype=">i4"), "b": np.arange(3, dtype="<i4")}
    read = read_weights(write(tmp_path / "big.pkl", arrays))
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        "a": [0, 1, 2],
        "b": [0, 1, 2],
    }
    assert np.dtype("i4").isnative


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
    loaded.encode(torch.randn(1, 3, SIDE, SIDE)).square().mean().backward()
    assert loaded.image_encoder.pos_embed.weight.grad.any()


def test_the_preset_and_the_image_size_are_recognized(tmp_path, released):
    torch.save(released, tmp_path / "tap.pth")
    loaded = load_released_weights(tmp_path / "tap.pth")
    assert loaded.config == SMALL
    assert loaded.config.preset_name == "tiny"


def test_positions_are_resized_to_the_image_size_of_the_config(tmp_path, released):
    torch.save(released, tmp_path / "tap.pth")
    loaded = load_released_weights(tmp_path / "tap.pth", TINY)
    expected = resize_positions(released[POSITIONS], (TINY.grid_size, TINY.grid_size))
    assert torch.equal(loaded.state_dict()[POSITIONS], expected)
    assert loaded.encode(torch.randn(1, 3, 2 * SIDE, 2 * SIDE)).shape[-1] == TINY.grid_size


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, tap, suffix, share):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(to_released(tap.state_dict()), path)
    else:
        save_released_weights(tap, path, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"cut{suffix} cannot be read as a file of weights"):
        load_released_weights(path)


@pytest.mark.parametrize("name", ["text.pkl", "text.safetensors", "text.pth"])
def test_a_text_is_no_file_of_weights(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 698312\n")
    with pytest.raises(ValueError, match=f"{name} cannot be read as a file of weights"):
        load_released_weights(tmp_path / name)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        load_released_weights(tmp_path / "none.pkl")


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_listed(tmp_path, released, number):
    names = ["pixel_rsig", "image_encoder.cross_conv.0.norm1.running_var", POSITIONS]
    state = {name: tensor.clone() for name, tensor in released.items()}
    for name in names:
        state[name].view(-1)[1] = number
    path = write(tmp_path / "tap.pkl", as_arrays(state))
    with pytest.raises(ValueError, match="3 tensors are broken") as caught:
        load_released_weights(path)
    for name in names:
        assert f"not finite: {name}\n" in f"{caught.value}\n"


def test_bias_offsets_of_another_window_are_refused(tmp_path, released):
    name = "image_encoder.blocks.1.attn.rel_pos_embed.index"
    state = {**released, name: released[name].T.contiguous()}
    with pytest.raises(
        ValueError, match=rf"not the offsets of a window of {TINY.window_size}: {name}"
    ):
        load_released_weights(write(tmp_path / "tap.pkl", as_arrays(state)))


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_a_file_written_and_read_keeps_every_bit(tmp_path, tap, released, suffix):
    path = tmp_path / f"tap{suffix}"
    save_released_weights(tap, path, {"origin": "a test"})
    assert_same(read_weights(path), released)
    loaded = load_released_weights(path)
    assert_same(loaded.state_dict(), tap.state_dict())
    again = tmp_path / f"again{suffix}"
    save_released_weights(loaded, again, {"origin": "a test"})
    assert_same(read_weights(again), released)


def test_a_written_pickle_is_what_the_released_code_reads(tmp_path, tap, released):
    save_released_weights(tap, tmp_path / "tap.pkl", {})
    with (tmp_path / "tap.pkl").open("rb") as file:
        content = pickle.load(file)
    assert type(content) is dict
    assert {type(array) for array in content.values()} == {np.ndarray}
    assert list(content) == list(tap.state_dict())
    assert_same({name: torch.as_tensor(array) for name, array in content.items()}, released)


def test_a_safetensors_tells_a_config_that_is_no_preset(tmp_path):
    odd = Tap(TapConfig.preset("tiny", image_size=64, window_size=2, text_depth=1))
    save_released_weights(odd, tmp_path / "odd.safetensors", {})
    loaded = load_released_weights(tmp_path / "odd.safetensors")
    assert loaded.config == odd.config
    assert loaded.config.preset_name is None


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_every_released_name_is_that_of_its_preset(name):
    facts = Path(__file__).resolve().parents[3] / f"shared/facts/state_keys_{name}.json"
    if not facts.exists():
        pytest.skip(f"{facts} is not here")
    released = {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, (shape, dtype) in json.loads(facts.read_text()).items()
    }
    ours = from_released(released)
    config = recognize(ours)
    assert config.preset_name == name
    assert config.image_size == 1024
    with torch.device("meta"):
        tap = Tap(config)
    tap.load_state_dict(ours, assign=True)
    written = to_released(tap.state_dict())
    assert list(written) == list(tap.state_dict())
    assert {k: (v.shape, v.dtype) for k, v in written.items()} == {
        k: (v.shape, v.dtype) for k, v in released.items()
    }


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
