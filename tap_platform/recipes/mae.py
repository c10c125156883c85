"""Start the image encoder from masked-autoencoder ViT weights, as TAP does (paper, section 4.1)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class InitReport(NamedTuple):
    """Names of encoder parameters taken from the file, left as made, and of the file's unused."""

    loaded: list[str]
    made: list[str]
    unused: list[str]


def load_mae_weights(encoder: nn.Module, path: str | Path) -> InitReport:
    """Copy a timm-format ViT into the image encoder: patch embedding, positions, blocks, last norm.

    The position table loses its class token and is resized to the encoder's grid; a patch kernel of
    another size (ViT-H/14) is resized too. Relative positions and convolutions stay as made.

    Args:
        encoder: the image encoder, its tables made at the target size.
        path: local `.safetensors`, or a torch file with tensors only.

    Raises:
        ValueError: if the file cannot be read, or its tensors do not fit the encoder.
    """
    source = _read(Path(path))
    target = encoder.state_dict()
    loaded: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, tensor in source.items():
        ours = "pos_embed.weight" if name == "pos_embed" else name
        if ours not in target:
            continue
        fitted = _fit(name, tensor.float(), target[ours])
        if fitted.shape != target[ours].shape:
            wrong.append(f"{name} {list(fitted.shape)}, expected {list(target[ours].shape)}")
        loaded[ours] = fitted
    wrong += [f"no {name}" for name in target if _is_due(name) and name not in loaded]
    if wrong:
        faults = "; ".join(wrong[:5])
        raise ValueError(f"recipe.mae_weights {path}: does not fit the image encoder: {faults}")
    encoder.load_state_dict(loaded, strict=False)
    return InitReport(
        loaded=sorted(loaded),
        made=sorted(set(target) - set(loaded)),
        unused=sorted(n for n in source if n not in target and n != "pos_embed"),
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has errors of its own
        raise ValueError(f"recipe.mae_weights {path}: cannot be read: {error}") from None
    if not isinstance(state, dict):
        raise ValueError(f"recipe.mae_weights {path}: holds no tensors by name")
    state = state.get("model", state)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _is_due(name: str) -> bool:
    """Whether every masked autoencoder has it: one of another depth would leave blocks as made."""
    return name.startswith("blocks.") and ".rel_pos_embed." not in name


def _fit(name: str, tensor: Tensor, target: Tensor) -> Tensor:
    """Bring a tensor whose size depends on the image or patch size to the encoder's."""
    if name == "pos_embed":
        return _resize_positions(tensor.squeeze(0), len(target))
    if name == "patch_embed.proj.weight" and tensor.shape[:2] == target.shape[:2]:
        size = target.shape[-2:]
        if tensor.shape[-2:] != size:
            return F.interpolate(tensor, size, mode="bicubic", align_corners=False)
    return tensor


def _resize_positions(table: Tensor, cells: int) -> Tensor:
    """Drop the class token of a position table [N, D] and resize its square grid to `cells`."""
    side = math.isqrt(len(table))
    grid = table[len(table) - side * side :]
    new_side = math.isqrt(cells)
    if side == new_side:
        return grid
    maps = grid.T.reshape(1, -1, side, side)
    resized = F.interpolate(maps, (new_side, new_side), mode="bicubic", align_corners=False)
    return resized.flatten(2)[0].T
