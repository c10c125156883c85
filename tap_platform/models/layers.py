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


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize every pixel of [B, C, H, W] over C."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
