"""Small layers that several parts of TAP share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Table(nn.Module):
    """A learned table that is always read whole.

    It is read by a call, so that a strategy that shards parameters gathers it like any layer.
    """

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, dim))

    def forward(self) -> Tensor:
        """The table, [rows, dim]."""
        return self.weight


class Mlp(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, dim: int, hidden_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.activation = activation
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to [..., dim]."""
        return self.fc2(self.activation(self.fc1(x)))


class Head(nn.Module):
    """Three linear layers with ReLU between them: how the image decoder reads its tokens."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Linear(dim, hidden_dim),
                nn.Linear(hidden_dim, hidden_dim),
                nn.Linear(hidden_dim, out_dim),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to [..., out_dim]."""
        x = F.relu(self.layers[0](x))
        x = F.relu(self.layers[1](x))
        return self.layers[2](x)


class Doubling(nn.ConvTranspose2d):
    """A transposed convolution that makes every cell of a map four, from the cell alone.

    Nothing overlaps, so it is a linear layer, and channels can stay last.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(dim, out_dim, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Map [..., dim] to [..., 4, out_dim]: left-top, right-top, left-bottom, right-bottom."""
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        assert self.bias is not None
        return F.linear(x, weight, self.bias.repeat(4)).unflatten(-1, (4, -1))
