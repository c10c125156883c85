"""The released weights of TAP, in and out.

Released models read BGR, ours RGB. The arithmetic is the same once three tensors are flipped.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tap_platform.config.model import PresetName, TapConfig
from tap_platform.models.image_encoder import resize_positions
from tap_platform.models.tap import Tap

POSITIONS = "image_encoder.pos_embed.weight"
PATCHES = "image_encoder.patch_embed.proj.weight"
COLOUR_AXES = {"pixel_mean": 0, "pixel_rsig": 0, PATCHES: 1}


def load_released_weights(path: str | Path, config: TapConfig | None = None) -> Tap:
    """Build a model from a released file.

    Args:
        path: a `.pkl` of numpy arrays, a `.safetensors`, or a state dict that `torch.save` wrote.
        config: the model's sizes; left out, they are recognized from the shapes. If its image size
            is not that of the file, the position table is resized.

    Returns:
        The model in float32 on the CPU, in training mode as every new module.

    Raises:
        ValueError: if the file holds anything but tensors, or not those of the model.
    """
    state = from_released(read_weights(path))
    try:
        return _build(state, config or recognize(state))
    except ValueError as error:
        raise ValueError(f"{path} does not hold the weights of this model: {error}") from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a flat file of named tensors without running any code that it may hold.

    Raises:
        ValueError: if the file is broken or holds anything but named tensors.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".pkl":
            return _read_pickle(path)
        return _checked(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a file of weights: {error}") from error


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn released tensors, which read BGR, into ours, which read RGB."""
    return {
        name: tensor.flip(COLOUR_AXES[name]) if name in COLOUR_AXES else tensor
        for name, tensor in state.items()
    }


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def _build(state: dict[str, Tensor], config: TapConfig) -> Tap:
    with torch.device("meta"):
        tap = Tap(config)
    expected = tap.state_dict()
    if _has_positions(state):
        grid = config.grid_size, config.grid_size
        state = {**state, POSITIONS: resize_positions(state[POSITIONS], grid)}
    _check(state, expected)
    state = {name: state[name].to(tensor.dtype) for name, tensor in expected.items()}
    tap.load_state_dict(state, assign=True)
    return tap


def _has_positions(state: Mapping[str, Tensor]) -> bool:
    """Whether there is a position table and it is that of a square grid."""
    shape = state[POSITIONS].shape if POSITIONS in state else ()
    return len(shape) == 2 and isqrt(shape[0]) ** 2 == shape[0]


def _check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names and shapes; raise a ValueError that lists every difference."""
    problems = [f"missing: {name}" for name in expected if name not in state]
    problems += [f"unexpected: {name}" for name in state if name not in expected]
    problems += [
        f"wrong shape: {name} is {list(state[name].shape)}, the model has {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        raise ValueError("\n  ".join([f"{len(problems)} differences", *problems]))


def _read_pickle(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        arrays = _ArrayUnpickler(file).load()
    if not isinstance(arrays, dict):
        raise TypeError(f"it holds a {type(arrays).__name__}, not a dictionary of arrays")
    return _checked({name: _as_tensor(name, array) for name, array in arrays.items()})


def _as_tensor(name: str, array: object) -> Tensor:
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind not in "fiub":
        raise TypeError(f"{name} is not an array of numbers")
    return torch.from_numpy(np.array(array))


def _checked(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict):
        raise TypeError(f"it holds a {type(state).__name__}, not a dictionary of tensors")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TypeError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
    return dict(state)


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for `codecs.encode`, which would accept any codec; numpy names only this one."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it names the codec {encoding}")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and scalars in plain containers and refuses all else.

    Arrays are made by functions of numpy that have no public name: numpy's own answer to "how are
    you pickled?" names them. Files from before numpy 2 call their module `numpy.core`.
    """

    ADMITTED: ClassVar[dict[str, Any]] = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "numpy._core.multiarray._reconstruct": np.zeros(1).__reduce__()[0],
        "numpy._core.multiarray.scalar": np.float32(0).__reduce__()[0],
        "numpy._core.numeric._frombuffer": np.zeros(1).__reduce_ex__(5)[0],
        "_codecs.encode": _encode,
        "collections.OrderedDict": OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The admitted object of that name.

        Raises:
            UnpicklingError: if it is not admitted.
        """
        full_name = f"{module}.{name}".replace("numpy.core.", "numpy._core.")
        if full_name not in self.ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks to run {module}.{name}; only numpy arrays are admitted"
            )
        return self.ADMITTED[full_name]
