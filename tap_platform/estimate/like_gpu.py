"""The operations that a GPU would choose, on fake tensors of a machine without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_layer_norm = F.layer_norm


@contextmanager
def like_gpu() -> Iterator[None]:
    """Let tensors of a CPU take the ways of a GPU where these hold other memory.

    A GPU attends without holding the scores, even where a bias learns, and under autocast it
    normalizes layers in float32. All else is alike. Nothing else may run meanwhile.
    """
    theirs = {"scaled_dot_product_attention": _attend, "layer_norm": _normalize}
    own = {name: getattr(F, name) for name in theirs}
    for name, function in theirs.items():
        setattr(F, name, function)
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(F, name, function)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Memory-efficient attention [M, heads, N, D]; a CPU's autocast does not know it."""
    given = [query, key, value, *([] if attn_mask is None else [attn_mask])]
    if torch.is_autocast_enabled("cpu"):
        given = [each.to(torch.get_autocast_dtype("cpu")) for each in given]
    query, key, value, *masks = given
    bias = masks[0].expand(*query.shape[:-1], key.shape[-2]) if masks else None
    keeps = torch.is_grad_enabled()
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    out: Tensor = attend(query, key, value, bias, keeps, dropout_p, is_causal)[0]
    return out


def _normalize(x: Tensor, *shape_and_affine: Any) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        x = x.float()
    return _layer_norm(x, *shape_and_affine)
