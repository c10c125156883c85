"""The image decoder: from an image and prompts to masks, scores and semantic tokens.

Source: Tokenize Anything via Prompting, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tap_platform.config.model import TapConfig
from tap_platform.models.layers import Doubling, Head, Table
from tap_platform.models.two_way_transformer import PreparedImages, TwoWayTransformer

CANDIDATES = 4

# Bytes of intermediate results: a processor's cache holds few prompts, a GPU is busy with many.
CPU_BUDGET = 2**25
GPU_BUDGET = 2**30


class RegionOutput(NamedTuple):
    """What TAP says about each prompt: four candidates, 0 for a box, 1 to 3 for points."""

    masks: Tensor
    """Mask logits at four cells a patch, [M, 4, 4 * H / patch, 4 * W / patch]."""
    iou: Tensor
    """Predicted IoU of each mask with the true one, float32 [M, 4]."""
    semantic_tokens: Tensor
    """What the text decoder reads, [M, 4, embed_dim]."""
    mask_tokens: Tensor
    """What the masks are made from, [M, 4, embed_dim]; the text decoder may read these instead."""
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
            Doubling(dim, dim // 4),
            nn.LayerNorm(dim // 4),
            nn.GELU(),
            Doubling(dim // 4, dim // 8),
            nn.GELU(),
        )
        self.mask_pred = nn.ModuleList(Head(dim, dim, dim // 8) for _ in range(CANDIDATES))
        self.iou_pred = Head(dim, dim, CANDIDATES)
        self.sem_pred = Head(dim, config.concept_dim, config.concept_dim)

    def forward(
        self,
        image_embeddings: Tensor,
        image_code: Tensor,
        prompts: Tensor,
        image_index: Tensor,
        memory_budget: int | None = None,
    ) -> RegionOutput:
        """Answer prompts.

        Args:
            image_embeddings: [B, C, H, W].
            image_code: the position code of the image's cells, [H * W, C].
            prompts: the tokens of each prompt's points, [M, P, C].
            image_index: the image of each prompt, [M].
            memory_budget: bytes for intermediate results where no gradients are wanted; by default
                what suits the device.
        """
        grid = image_embeddings.shape[-2:]
        tokens = torch.cat((self._learned_tokens(len(prompts)), prompts), 1)
        image = image_embeddings.flatten(2).transpose(1, 2).contiguous()
        images = self.transformer.prepare(image, image_code.to(image.dtype))

        def answer(images: PreparedImages, rows: Tensor | slice) -> RegionOutput:
            return self._answer(images, tokens[rows], image_index[rows], grid)

        most = _prompts_at_once(image, memory_budget)
        if torch.is_grad_enabled() or len(tokens) <= most:
            return answer(images, slice(None))
        answers = (
            (rows, answer(images.of(number), rows))
            for number in image_index.unique().tolist()
            for rows in (image_index == number).nonzero()[:, 0].split(most)
        )
        return _gather(answers, len(tokens))

    def _answer(
        self, images: PreparedImages, tokens: Tensor, image_index: Tensor, grid: torch.Size
    ) -> RegionOutput:
        """Answer prompts together; their tokens are [M, T, C]."""
        tokens, image = self.transformer(tokens, images, image_index)
        semantic, iou, mask = tokens[:, :9].split((CANDIDATES, 1, CANDIDATES), 1)
        return RegionOutput(
            masks=self._masks(mask, image, grid),
            iou=self.iou_pred(iou[:, 0]).float(),
            semantic_tokens=semantic,
            mask_tokens=mask,
            concept_embeddings=self.sem_pred(semantic),
        )

    def _learned_tokens(self, count: int) -> Tensor:
        tokens = torch.cat((self.sem_tokens(), self.iou_token(), self.mask_tokens()))
        return tokens.expand(count, -1, -1)

    def _masks(self, tokens: Tensor, image: Tensor, grid: torch.Size) -> Tensor:
        """Mask logits from mask tokens [M, 4, C] and an image [M, H * W, C]."""
        pixels = self.output_conv(image).flatten(1, 3)
        heads = zip(self.mask_pred, tokens.unbind(1), strict=True)
        filters = torch.stack([head(token) for head, token in heads], 1)
        return _arrange(filters @ pixels.transpose(1, 2), grid)


def _prompts_at_once(image: Tensor, memory_budget: int | None) -> int:
    """How many prompts of images [B, N, C] keep to a budget of bytes.

    At its peak a prompt holds its image, and twice the pixels that masks are made of: 16 for each
    cell, with an eighth of the channels.
    """
    if memory_budget is None:
        memory_budget = CPU_BUDGET if image.device.type == "cpu" else GPU_BUDGET
    return max(1, memory_budget // (5 * image[0].nbytes))


def _gather(answers: Iterable[tuple[Tensor, RegionOutput]], count: int) -> RegionOutput:
    """Put answers where they belong, given with their rows; no more than one is held beside."""
    whole: RegionOutput | None = None
    for rows, answer in answers:
        if whole is None:
            whole = RegionOutput(*(part.new_empty(count, *part.shape[1:]) for part in answer))
        for target, part in zip(whole, answer, strict=True):
            target[rows] = part
    assert whole is not None
    return whole


def _arrange(products: Tensor, grid: torch.Size) -> Tensor:
    """Make maps of pixels that lie cell by cell, quarter by quarter.

    Args:
        products: [M, 4, H * W * 4 * 4].
        grid: H and W.

    Returns:
        [M, 4, 4 * H, 4 * W].
    """
    pixels = products.unflatten(2, (*grid, 2, 2, 2, 2))
    return pixels.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)
