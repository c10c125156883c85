"""Transformer blocks that attend inside square windows of the patch grid."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tap_platform.models.layers import Mlp


def partition(x: Tensor, window_size: int) -> Tensor:
    """Cut a map into windows.

    Args:
        x: a map, [B, H, W, C]; H and W are multiples of the window.
        window_size: the side of a window, in patches.

    Returns:
        The windows row by row, their patches row by row, [B * windows, window_size**2, C].
    """
    _, height, width, _ = x.shape
    rows, columns = height // window_size, width // window_size
    x = x.unflatten(2, (columns, window_size)).unflatten(1, (rows, window_size))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def merge(windows: Tensor, grid: tuple[int, int], window_size: int) -> Tensor:
    """Put windows back into a map: the inverse of `partition`.

    Args:
        windows: [B * windows, window_size**2, C].
        grid: height and width of the map, in patches.
        window_size: the side of a window, in patches.

    Returns:
        The map, [B, H, W, C].
    """
    rows, columns = grid[0] // window_size, grid[1] // window_size
    x = windows.unflatten(1, (window_size, window_size)).unflatten(0, (-1, rows, columns))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class RelativePositionBias(nn.Module):
    """A learned number for each head and each offset between two patches of a window."""

    index: Tensor

    def __init__(self, heads: int, window_size: int) -> None:
        super().__init__()
        self._known: tuple[object, Tensor] | None = None
        self.weight = nn.Parameter(torch.zeros(heads, (2 * window_size - 1) ** 2))
        self.register_buffer("index", offset_index(window_size))

    def forward(self) -> Tensor:
        """The bias of query i and key j, [heads, window_size**2, window_size**2].

        In evaluation without gradients it is kept until the weights change.
        """
        if self.training or torch.is_grad_enabled() or self.weight.is_inference():
            self._known = None
            return self._compute()
        state = self.weight.data_ptr(), self.weight._version, self.weight.dtype
        if self._known is None or self._known[0] != state:
            self._known = state, self._compute()
        return self._known[1]

    def train(self, mode: bool = True) -> Self:
        """Set the mode, and forget the bias: not every way to change weights leaves a trace."""
        self._known = None
        return super().train(mode)

    def _compute(self) -> Tensor:
        flat = self.weight.index_select(1, self.index.flatten())
        return flat.unflatten(1, self.index.shape)


def offset_index(window_size: int) -> Tensor:
    """For each query and key of a window, the place of their offset in a bias table, [N, N]."""
    y, x = torch.meshgrid(torch.arange(window_size), torch.arange(window_size), indexing="ij")
    y, x = y.flatten(), x.flatten()
    rows = y[:, None] - y[None, :] + window_size - 1
    columns = x[:, None] - x[None, :] + window_size - 1
    return rows * (2 * window_size - 1) + columns


class WindowAttention(nn.Module):
    """Multi-head attention among the patches of one window, with a relative position bias."""

    def __init__(self, dim: int, heads: int, window_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_embed = RelativePositionBias(heads, window_size)

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside each window of [windows, window_size**2, C]."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.rel_pos_embed().to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        return self.proj(out.transpose(1, 2).flatten(2))


class DropPath(nn.Module):
    """Stochastic depth: in training, drop the branch of whole rows with probability `rate`.

    A row is a window, not an image: windows of one image are dropped independently.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zero rows of [windows, ...] at random and scale the others to keep the mean."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask.div_(keep)


class WindowBlock(nn.Module):
    """A pre-norm transformer block on windows."""

    def __init__(self, dim: int, heads: int, window_size: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window_size)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, nn.GELU())
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map [windows, window_size**2, C] to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
