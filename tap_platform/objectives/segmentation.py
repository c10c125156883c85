"""Losses of predicted masks and of their predicted IoU (TAP paper, section 3.3).

Logits are [..., R, R] and targets bool of the same shape; with a candidates axis, logits are
[M, K, R, R] and targets [M, R, R] serve every candidate. Everything is computed in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_PIXELS = (-2, -1)


def focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al. 2017, equation 5), the mean over the pixels of each mask.

    Args:
        logits: [M, R, R] or [M, K, R, R].
        targets: bool [M, R, R].
        alpha: weight of positive pixels; negative ones weigh `1 - alpha`.
        gamma: focusing exponent.

    Returns:
        float32 [M] or [M, K], 0 or above.
    """
    truth = _beside(logits, targets).float()
    wrong_logits = logits.float() * (1 - 2 * truth)
    balance = (1 - alpha) + (2 * alpha - 1) * truth
    losses = balance * wrong_logits.sigmoid().pow(gamma) * F.softplus(wrong_logits)
    return losses.mean(_PIXELS)


def dice_loss(logits: Tensor, targets: Tensor, epsilon: float) -> Tensor:
    """Dice loss: 1 - (2 sum(p t) + epsilon) / (sum(p) + sum(t) + epsilon) over each mask's pixels.

    Args:
        logits: [M, R, R] or [M, K, R, R].
        targets: bool [M, R, R].
        epsilon: smoothing, in pixels.

    Returns:
        float32 [M] or [M, K], from 0 to 1.
    """
    truth = _beside(logits, targets)
    probabilities = logits.float().sigmoid()
    shared = (probabilities * truth).sum(_PIXELS)
    total = probabilities.sum(_PIXELS) + mask_area(truth)
    return 1 - (2 * shared + epsilon) / (total + epsilon)


def actual_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of the masks `logits > 0` with the true ones; 0 where both are empty.

    Args:
        logits: [M, R, R] or [M, K, R, R].
        targets: bool [M, R, R].

    Returns:
        float32 [M] or [M, K], from 0 to 1, without gradient.
    """
    return mask_iou(logits.detach() > 0, _beside(logits, targets))


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of bool masks [..., R, R] that broadcast: float32 [...]; 0 where both are empty."""
    shared = mask_area(first & second)
    union = mask_area(first) + mask_area(second) - shared
    return shared / union.clamp(min=1)


def mask_area(masks: Tensor) -> Tensor:
    """Pixels set in each bool mask [..., R, R]: int32 [...]."""
    # Sums of bytes are vectorized; sums of bools are twenty times slower on a CPU.
    return masks.view(torch.uint8).sum(_PIXELS, dtype=torch.int32)


def iou_loss(predicted: Tensor, actual: Tensor) -> Tensor:
    """Squared error of predicted IoU against actual IoU, element by element, in float32."""
    return (predicted.float() - actual).square()


def _beside(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets [M, R, R] with an axis for the candidates that the logits may have."""
    return targets.unsqueeze(1) if logits.ndim > targets.ndim else targets
