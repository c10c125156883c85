"""Which of the four masks, and semantic tokens, of a prompt is trained or shown.

Mask 0 answers boxes, masks 1 to 3 answer points (TAP paper, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor


def route(is_box: Tensor, scores: Tensor) -> Tensor:
    """The index of each prompt's answer: 0 for a box, the best scored of 1 to 3 for points.

    Args:
        is_box: bool [M].
        scores: [M, 4], higher is better; the first column is not read.

    Returns:
        int64 [M], from 0 to 3.
    """
    best_point_mask = 1 + scores[:, 1:].argmax(dim=1)
    return best_point_mask.masked_fill(is_box, 0)


def select(values: Tensor, index: Tensor) -> Tensor:
    """The routed one of each prompt's values: [M, K, ...] at int64 [M] gives [M, ...]."""
    rows = torch.arange(len(index), device=index.device) * values.shape[1] + index
    # index_select's gradient is twice as fast as that of indexing with tensors, and as it never
    # adds two numbers to one place, it is deterministic.
    return values.flatten(0, 1).index_select(0, rows)
