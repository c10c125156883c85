"""The point that cues a region in an evaluation: the cell deepest inside its mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def interior_cells(masks: Tensor) -> Tensor:
    """The cell of each mask that is furthest from any cell outside it.

    Distance is counted in steps to a side neighbour, and the border of the grid is outside. Of
    several cells equally deep, the one nearest to their mean is taken, and of these the first.

    Args:
        masks: bool [M, R, R], none empty.

    Returns:
        int64 [M, 2], (x, y) on the mask grid.
    """
    size = masks.shape[-1]
    depth = _depth(masks)
    deepest = depth == depth.amax((1, 2), keepdim=True)
    places = torch.arange(size, device=masks.device, dtype=torch.float32)
    count = deepest.sum((1, 2))
    mean_x = (deepest.sum(1) * places).sum(1) / count
    mean_y = (deepest.sum(2) * places).sum(1) / count
    off_x = (places - mean_x[:, None]).square()[:, None, :]
    off_y = (places - mean_y[:, None]).square()[:, :, None]
    nearest = (off_x + off_y).masked_fill(~deepest, torch.inf).flatten(1).argmin(1)
    return torch.stack([nearest % size, nearest // size], dim=1)


def _depth(masks: Tensor) -> Tensor:
    """Steps from each cell to the nearest one outside its mask: int32 [M, R, R]."""
    inside = F.pad(masks, (1, 1, 1, 1))
    steps = inside.int() * (2 * masks.shape[-1])
    for dim in (1, 2):
        steps = torch.minimum(_swept(steps, dim), _swept(steps.flip(dim), dim).flip(dim))
    return steps[:, 1:-1, 1:-1]


def _swept(steps: Tensor, dim: int) -> Tensor:
    """Each cell's least cost of a start at it, or before it plus one for every cell between."""
    places = torch.arange(steps.shape[dim], device=steps.device, dtype=steps.dtype)
    places = places[:, None] if dim == 1 else places
    return (steps - places).cummin(dim).values + places
