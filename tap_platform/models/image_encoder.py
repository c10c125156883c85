"""The image encoder: a vision transformer in windows, with convolutions between them.

Source: Tokenize Anything via Prompting, section 3.1, after ViTDet's convolutional propagation.
"""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tap_platform.config.model import TapConfig
from tap_platform.models.batch_norm import SynchronizedBatchNorm
from tap_platform.models.window_attention import WindowBlock, merge, partition


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize the position table of a square grid by bicubic interpolation.

    Args:
        table: one row for each patch of a square grid, row by row, [N, C].
        grid: height and width of the wanted grid, in patches.

    Returns:
        The table of the wanted grid, [height * width, C]; the table itself if the grid is its own.
    """
    side = isqrt(table.shape[0])
    if grid == (side, side):
        return table
    square = table.float().T.unflatten(1, (side, side))[None]
    resized = F.interpolate(square, grid, mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.to(table.dtype)


class PatchEmbedding(nn.Module):
    """Project each patch of the image to a token."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [B, 3, H, W] to [B, H / patch, W / patch, C]."""
        return self.proj(pixels).permute(0, 2, 3, 1)


class PositionTable(nn.Module):
    """A learned vector for each patch of the configured grid."""

    def __init__(self, grid_size: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(grid_size**2, dim), std=0.02))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """The vectors of a grid, resized if it is not the configured one, [height, width, C]."""
        return resize_positions(self.weight, grid).unflatten(0, grid)


class Bottleneck(nn.Module):
    """A residual bottleneck that carries information across windows; it starts as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden_dim = dim // 2
        self.conv1 = nn.Conv2d(dim, hidden_dim, 1, bias=False)
        self.norm1 = SynchronizedBatchNorm(hidden_dim)
        self.conv2 = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, bias=False)
        self.norm2 = SynchronizedBatchNorm(hidden_dim)
        self.conv3 = nn.Conv2d(hidden_dim, dim, 1, bias=False)
        self.norm3 = SynchronizedBatchNorm(dim)
        nn.init.zeros_(self.norm3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        out = F.gelu(self.norm1(self.conv1(x)))
        out = F.gelu(self.norm2(self.conv2(out)))
        return x + self.norm3(self.conv3(out))


class Neck(nn.Module):
    """The one level of a feature pyramid that TAP reads; the lists keep the released names."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        lateral = nn.Conv2d(dim, out_dim, 1, bias=False)
        output = nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)
        self.lateral_conv = nn.ModuleList([_normalized(lateral)])
        self.output_conv = nn.ModuleList([_normalized(output)])

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, out_dim, H, W]."""
        return self.output_conv[0](self.lateral_conv[0](x))


def _normalized(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, SynchronizedBatchNorm(convolution.out_channels))


class ImageEncoder(nn.Module):
    """Windowed transformer blocks in four quarters, each closed by a bottleneck."""

    def __init__(self, config: TapConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.window_size = config.window_size
        self.activation_checkpointing = config.activation_checkpointing
        dim, depth = config.encoder_dim, config.encoder_depth
        self.patch_embed = PatchEmbedding(dim, config.patch_size)
        self.pos_embed = PositionTable(config.grid_size, dim)
        self.blocks = nn.ModuleList(
            WindowBlock(
                dim, config.encoder_heads, config.window_size, config.drop_path * i / (depth - 1)
            )
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.cross_conv = nn.ModuleList(Bottleneck(dim) for _ in range(4))
        self.neck = Neck(dim, config.embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed normalized RGB images.

        Args:
            pixels: [B, 3, H, W]; H and W are multiples of the patch times the window.

        Returns:
            The image embeddings, [B, embed_dim, H / patch, W / patch].

        Raises:
            ValueError: if windows do not tile the image.
        """
        grid = self._grid(pixels)
        x = self.patch_embed(pixels) + self.pos_embed(grid)
        quarter = len(self.blocks) // 4
        for i, bottleneck in enumerate(self.cross_conv):
            windows = partition(x, self.window_size)
            for j in range(i * quarter, (i + 1) * quarter):
                windows = self._run(self.blocks[j], windows)
            if i == 3:
                windows = self.norm(windows)
            x = merge(windows, grid, self.window_size)
            x = bottleneck(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.neck(x.permute(0, 3, 1, 2))

    def _run(self, block: nn.Module, windows: Tensor) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, windows, use_reentrant=False)
        return block(windows)

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        height, width = pixels.shape[-2:]
        tile = self.patch_size * self.window_size
        if height % tile or width % tile:
            raise ValueError(
                f"an image of {height} x {width} pixels cannot be cut into windows of"
                f" {tile} x {tile}: pad it to a multiple"
            )
        return height // self.patch_size, width // self.patch_size
