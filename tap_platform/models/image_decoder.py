"""The image decoder: from an image and prompts to masks, scores and semantic tokens.

Source: Tokenize Anything via Prompting, section 3.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tap_platform.config.model import TapConfig
from tap_platform.models.layers import ChannelLayerNorm, Head, Table
from tap_platform.models.two_way_transformer import TwoWayTransformer

CANDIDATES = 4


class RegionOutput(NamedTuple):
    """What TAP says about each prompt: four candidates, 0 for a box, 1 to 3 for points."""

    masks: Tensor
    """Mask logits at four cells a patch, [M, 4, 4 * H / patch, 4 * W / patch]."""
    iou: Tensor
    """Predicted IoU of each mask with the true one, float32 [M, 4]."""
    semantic_tokens: Tensor
    """What the text decoder reads, [M, 4, embed_dim]."""
    concept_embeddings: Tensor
    """Points of the concept space, not normalized, [M, 4, concept_dim]."""


class ImageDecoder(nn.Module):
    """Learned tokens ask the image about each prompt; small heads read the answers.

    A prompt's sequence is 4 semantic tokens, 1 IoU token, 4 mask tokens, then its points.
    """

    def __init__(self, config: TapConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.transformer = TwoWayTransformer(
            dim, config.decoder_depth, config.decoder_heads, config.decoder_dropout
        )
        self.iou_token = Table(1, dim)
        self.sem_tokens = Table(CANDIDATES, dim)
        self.mask_tokens = Table(CANDIDATES, dim)
        self.output_conv = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, 2),
            ChannelLayerNorm(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, 2),
            nn.GELU(),
        )
        self.mask_pred = nn.ModuleList(Head(dim, dim, dim // 8) for _ in range(CANDIDATES))
        self.iou_pred = Head(dim, dim, CANDIDATES)
        self.sem_pred = Head(dim, config.concept_dim, config.concept_dim)

    def forward(
        self, image_embeddings: Tensor, image_code: Tensor, prompts: Tensor, image_index: Tensor
    ) -> RegionOutput:
        """Answer prompts.

        Args:
            image_embeddings: [B, C, H, W].
            image_code: the position code of the image's cells, [H * W, C].
            prompts: the tokens of each prompt's points, [M, P, C].
            image_index: the image of each prompt, [M].
        """
        grid = image_embeddings.shape[-2:]
        tokens = torch.cat((self._learned_tokens(len(prompts)), prompts), 1)
        image = image_embeddings.flatten(2).transpose(1, 2)
        tokens, image = self.transformer(tokens, image, image_code.to(image.dtype), image_index)
        image = image.transpose(1, 2).unflatten(2, grid)
        semantic, iou, mask = tokens[:, :9].split((CANDIDATES, 1, CANDIDATES), 1)
        return RegionOutput(
            masks=self._masks(mask, image),
            iou=self.iou_pred(iou[:, 0]).float(),
            semantic_tokens=semantic,
            concept_embeddings=self.sem_pred(semantic),
        )

    def _learned_tokens(self, count: int) -> Tensor:
        tokens = torch.cat((self.sem_tokens(), self.iou_token(), self.mask_tokens()))
        return tokens.expand(count, -1, -1)

    def _masks(self, tokens: Tensor, image: Tensor) -> Tensor:
        pixels = self.output_conv(image)
        heads = zip(self.mask_pred, tokens.unbind(1), strict=True)
        filters = torch.stack([head(token) for head, token in heads], 1)
        return (filters @ pixels.flatten(2)).unflatten(2, pixels.shape[-2:])
