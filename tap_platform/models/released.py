"""The released weights of TAP, in and out.

Released models read BGR, ours RGB. The arithmetic is the same once three tensors are flipped.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tap_platform.config.model import PresetName, TapConfig
from tap_platform.models.array_pickle import load_array_pickle
from tap_platform.models.image_encoder import resize_positions
from tap_platform.models.tap import Tap
from tap_platform.models.window_attention import offset_index

WEIGHT_SUFFIXES = (".pkl", ".safetensors", ".pt", ".pth")
POSITIONS = "image_encoder.pos_embed.weight"
PATCHES = "image_encoder.patch_embed.proj.weight"
COLOUR_AXES = {"pixel_mean": 0, "pixel_rsig": 0, PATCHES: 1}
OFFSETS = "rel_pos_embed.index"

State = dict[str, Tensor]


def load_released_weights(path: str | Path, config: TapConfig | None = None) -> Tap:
    """Build a model from a released file, or from one that `save_released_weights` wrote.

    Args:
        path: a `.pkl` of numpy arrays, a `.safetensors`, or a state dict that `torch.save` wrote,
            with released names and colours in the order BGR; of any floating type.
        config: the model's sizes; left out, they are those that the file tells, or the preset that
            its shapes belong to. If its image size is not that of the file, the position table is
            resized.

    Returns:
        The model in float32 on the CPU, in training mode as every new module; its
        `config.preset_name` says which preset it is.

    Raises:
        ValueError: if the file holds anything but tensors, not those of the model (every
            difference is listed), or numbers that are not finite.
        FileNotFoundError: if there is no such file.
    """
    state = from_released(read_weights(path))
    try:
        return _build(state, config or _stored_config(Path(path)) or recognize(state))
    except ValueError as error:
        raise ValueError(f"{path} does not hold the weights of this model: {error}") from error


def save_released_weights(tap: Tap, path: Path, provenance: Mapping[str, str]) -> None:
    """Write a model with released names, shapes and colour order.

    Args:
        tap: the model; its numbers are written as they are.
        path: a `.pkl` (what the released code reads: a dictionary of numpy arrays) or a
            `.safetensors`, which also tells the config and the provenance.
        provenance: short texts about where the weights come from; a `.pkl` has no place for them.
    """
    state = {name: tensor.cpu() for name, tensor in to_released(tap.state_dict()).items()}
    if path.suffix == ".pkl":
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        with path.open("wb") as file:
            pickle.dump(arrays, file, protocol=4)
    else:
        metadata = {"format": "pt", "config": tap.config.model_dump_json(), **provenance}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)


def read_weights(path: str | Path) -> State:
    """Read a flat file of named tensors without running any code that it may hold.

    Raises:
        ValueError: if the file is broken or holds anything but named tensors.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    try:
        return _checked(_read(path))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a file of weights: {error}") from error


def from_released(state: Mapping[str, Tensor]) -> State:
    """Turn released tensors, which read BGR, into ours, which read RGB."""
    return {
        name: tensor.flip(COLOUR_AXES[name]) if name in COLOUR_AXES else tensor
        for name, tensor in state.items()
    }


def to_released(state: Mapping[str, Tensor]) -> State:
    """Turn our tensors into released ones: the same flips take a state dict back."""
    return from_released(state)


def recognize(state: Mapping[str, Tensor]) -> TapConfig:
    """The preset that a state dict belongs to, at the image size of its position table.

    Raises:
        ValueError: if its encoder is that of no preset.
    """
    patches, width = state[POSITIONS].shape if _has_positions(state) else (0, 0)
    depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
    for name in get_args(PresetName):
        config = TapConfig.preset(name)
        if (config.encoder_dim, config.encoder_depth) == (width, depth):
            return TapConfig.preset(name, image_size=isqrt(patches) * config.patch_size)
    raise ValueError(
        f"no preset has an image encoder of {depth} blocks with width {width}: give its config"
    )


def _build(state: State, config: TapConfig) -> Tap:
    with torch.device("meta"):
        tap = Tap(config)
    expected = tap.state_dict()
    if _has_positions(state):
        grid = config.grid_size, config.grid_size
        state = {**state, POSITIONS: resize_positions(state[POSITIONS], grid)}
    _check_names_and_shapes(state, expected)
    state = {name: state[name].to(tensor.dtype) for name, tensor in expected.items()}
    _check_values(state, config)
    tap.load_state_dict(state, assign=True)
    return tap


def _has_positions(state: Mapping[str, Tensor]) -> bool:
    """Whether there is a position table and it is that of a square grid."""
    shape = state[POSITIONS].shape if POSITIONS in state else ()
    return len(shape) == 2 and isqrt(shape[0]) ** 2 == shape[0]


def _check_names_and_shapes(state: State, expected: State) -> None:
    """Raise a ValueError that lists every difference in names and shapes."""
    problems = [f"missing: {name}" for name in expected if name not in state]
    problems += [f"unexpected: {name}" for name in state if name not in expected]
    problems += [
        f"wrong shape: {name} is {list(state[name].shape)}, the model has {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        raise ValueError("\n  ".join([f"{len(problems)} differences", *problems]))


def _check_values(state: State, config: TapConfig) -> None:
    """Raise a ValueError that lists the tensors whose numbers cannot be those of a model."""
    offsets = offset_index(config.window_size)
    problems = [f"not finite: {name}" for name, tensor in state.items() if not _finite(tensor)]
    problems += [
        f"not the offsets of a window of {config.window_size}: {name}"
        for name, tensor in state.items()
        if name.endswith(OFFSETS) and not torch.equal(tensor, offsets)
    ]
    if problems:
        raise ValueError("\n  ".join([f"{len(problems)} tensors are broken", *problems]))


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _stored_config(path: Path) -> TapConfig | None:
    """The config that a `.safetensors` tells in its metadata, if it does."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        stored = (file.metadata() or {}).get("config")
    return TapConfig.model_validate_json(stored) if stored else None


def _read(path: Path) -> Any:
    """What a file holds, by its suffix; nothing in it is run."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix != ".pkl":
        return _load_torch(path)
    content = load_array_pickle(path)
    if isinstance(content, dict):
        return {name: _as_tensor(name, array) for name, array in content.items()}
    return content


def _load_torch(path: Path) -> Any:
    """What `torch.save` wrote.

    Raises:
        ValueError: if it is something else. Torch's own message asks to be trusted with code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            "torch.save did not write it, or it holds more than tensors and plain values"
        ) from None


def _as_tensor(name: str, array: object) -> Tensor:
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind not in "fiub":
        raise TypeError(f"{name} is not an array of numbers")
    return torch.from_numpy(np.array(array))


def _checked(state: Any) -> State:
    if not isinstance(state, dict):
        raise TypeError(f"it holds a {type(state).__name__}, not a dictionary of named tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TypeError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
    return dict(state)
