"""Learning to describe: next-token cross entropy on a region's phrase (TAP paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tap_platform.objectives import draws

_PHRASE_STREAM = 16  # Prompts draw from the streams below.


def draw_phrases(phrases: Sequence[Sequence[str]], seeds: Tensor) -> list[str]:
    """Draw one phrase for each region, uniformly; the choice depends on its own seed alone.

    Args:
        phrases: M entries, what people say of each region.
        seeds: int64 [M], one for each region.

    Returns:
        M phrases, empty where nothing is said.
    """
    shares = draws.uniform(seeds, 1, _PHRASE_STREAM)[:, 0].tolist()
    return [
        each[int(share * len(each))] if each else ""
        for each, share in zip(phrases, shares, strict=True)
    ]


def caption_loss(logits: Tensor, tokens: Tensor, pad: int, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of each caption's words and its end.

    Args:
        logits: [M, T, V]; entry t predicts token t + 1.
        tokens: int64 [M, T + 1]: begin, words, end, then pads.
        pad: fills the end of a row. It may be a word as well, before the end.
        label_smoothing: probability that is spread over all V words instead of the right one.

    Returns:
        float32 [M]; zero for a row of pads only.
    """
    targets = tokens[:, 1:]
    counts = (targets != pad).flip(1).cumsum(1).flip(1) > 0
    losses = F.cross_entropy(
        logits.float().flatten(0, 1),
        targets.masked_fill(~counts, -100).flatten(),
        ignore_index=-100,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return losses.view(targets.shape).sum(1) / counts.sum(1).clamp(min=1)
