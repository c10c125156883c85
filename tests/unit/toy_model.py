"""A stand-in for TAP that answers with known masks, and remembers what it was asked."""

from __future__ import annotations

import torch
from torch import nn

from tap_platform.models import RegionOutput, TapConfig

CONFIG = TapConfig.preset("tiny", image_size=64, window_size=4, concept_dim=8)
R = CONFIG.mask_size


class ToyTap(nn.Module):
    """Each quarter of the frame is an object; candidate k is it, shrunk by k - 1 cells.

    Candidate 3 has a low score, candidate 2 shallow logits: it is unstable. A point in the quarter
    q is named by the concept q; its caption is the words q, q, end.
    """

    def __init__(self):
        super().__init__()
        self.config = CONFIG
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.asked = []

    def normalize(self, pixels):
        return pixels.float()

    def encode(self, pixels):
        return pixels

    def decode(self, embeddings, points, labels, image_index):
        self.asked.append((points, labels, image_index))
        quarter = (points[:, 0] >= CONFIG.image_size / 2).long()
        number = quarter[:, 0] + 2 * quarter[:, 1]
        masks = torch.full((len(points), 4, R, R), -9.0)
        for row, (right, low) in enumerate(quarter.tolist()):
            for candidate, margin in enumerate((0, 0, 1, 2)):
                top, left = low * R // 2 + margin, right * R // 2 + margin
                size = R // 2 - 2 * margin
                height = 0.5 if candidate == 2 else 9.0
                masks[row, candidate, top : top + size, left : left + size] = height
        return RegionOutput(
            masks=masks,
            iou=torch.tensor([0.5, 0.9, 0.95, 0.3]).repeat(len(points), 1),
            semantic_tokens=number[:, None, None].expand(-1, 4, 1).float(),
            mask_tokens=torch.zeros(len(points), 4, 1),
            concept_embeddings=torch.eye(8)[number][:, None].expand(-1, 4, -1),
        )

    def caption(self, semantic_tokens, max_tokens):
        words = 300 + semantic_tokens.long()
        return torch.cat((words, words, torch.full_like(words, 2)), 1)
