"""TAP: the image encoder, the prompt encoder, the image decoder and the text decoder together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tap_platform.config.model import TapConfig
from tap_platform.models.image_decoder import ImageDecoder, RegionOutput
from tap_platform.models.image_encoder import ImageEncoder
from tap_platform.models.prompt_encoder import PromptEncoder
from tap_platform.models.text_decoder import TextDecoder

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class Tap(nn.Module):
    """Segments, recognizes and captions any region that a prompt points at.

    Colours are RGB. Parameters have the names and shapes of the released models.
    """

    pixel_mean: Tensor
    pixel_rsig: Tensor

    def __init__(self, config: TapConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN))
        self.register_buffer("pixel_rsig", 1 / torch.tensor(PIXEL_STD))
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(config.embed_dim, config.coordinate_scale)
        self.image_decoder = ImageDecoder(config)
        self.text_decoder = TextDecoder(config)
        # The image decoder and the prompts start as their layers are made: tokens and labels must
        # differ widely from the first step, or all candidates learn the same.
        self.text_decoder.apply(_initialize)
        self.image_encoder.apply(_initialize)
        nn.init.xavier_uniform_(self.image_encoder.patch_embed.proj.weight.data.flatten(1))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Bring colours to mean 0 and deviation 1.

        Args:
            pixels: RGB from 0 to 255, integer or float, [B, 3, H, W].

        Returns:
            Normalized RGB in the dtype of the model, [B, 3, H, W].
        """
        mean, reciprocal_std = self.pixel_mean[:, None, None], self.pixel_rsig[:, None, None]
        return (pixels.to(mean.dtype) - mean) * reciprocal_std

    def encode(self, pixels: Tensor) -> Tensor:
        """Embed images.

        Args:
            pixels: normalized RGB, [B, 3, H, W]; H and W are multiples of patch times window.

        Returns:
            Image embeddings, [B, C, H / patch, W / patch].

        Raises:
            ValueError: if windows do not tile the image.
        """
        return self.image_encoder(pixels)

    def decode(
        self,
        image_embeddings: Tensor,
        points: Tensor,
        labels: Tensor,
        image_index: Tensor,
        memory_budget: int | None = None,
    ) -> RegionOutput:
        """Answer prompts about images; an image may have any number of them.

        Without gradients, prompts that do not fit into the memory budget together take turns.

        Args:
            image_embeddings: what `encode` gave, [B, C, H / patch, W / patch].
            points: (x, y) in pixels of the input frame, [M, P, 2]; a box is its two corners.
            labels: 0 background, 1 foreground, 2 left-top, 3 right-bottom, 4 pad, [M, P].
            image_index: the image of each prompt, [M].
            memory_budget: bytes for intermediate results, beside the answers; by default 32 MiB
                on a CPU, whose cache holds no more, and 1 GiB on a GPU.
        """
        height, width = image_embeddings.shape[-2:]
        frame = height * self.config.patch_size, width * self.config.patch_size
        prompts = self.prompt_encoder(points, labels, frame)
        image_code = self.prompt_encoder.image_code((height, width))
        return self.image_decoder(image_embeddings, image_code, prompts, image_index, memory_budget)

    def forward(
        self, pixels: Tensor, points: Tensor, labels: Tensor, image_index: Tensor
    ) -> RegionOutput:
        """Encode images and answer prompts about them; shapes as in `encode` and `decode`."""
        return self.decode(self.encode(pixels), points, labels, image_index)

    def text_logits(self, semantic_tokens: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the next word after each word of a caption.

        Args:
            semantic_tokens: one for each region, [M, C]; mask tokens, if it has learned from these.
            tokens: word ids that start with the begin token, [M, T]; T < text_length.

        Returns:
            float32 [M, T, V]; entry t predicts word t + 1.

        Raises:
            ValueError: if the text is too long.
        """
        return self.text_decoder(semantic_tokens, tokens)

    def caption(
        self,
        semantic_tokens: Tensor,
        max_tokens: int = 38,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Describe regions; call `eval()` first, as dropout acts otherwise.

        Args:
            semantic_tokens: one for each region, [M, C].
            max_tokens: the most words of a caption, the end token included; at least 1, and
                more than text_length - 2 are never given.
            temperature: divides the logits that words are drawn by; 0 takes the likeliest word.
            generator: where draws come from, on any device; by default torch's own.

        Returns:
            Word ids without the begin token, int64 [M, T]; pads follow the end token.

        Raises:
            ValueError: if the temperature is negative.
        """
        return self.text_decoder.generate(semantic_tokens, max_tokens, temperature, generator)


def _initialize(module: nn.Module) -> None:
    """Give a layer of the image encoder or text decoder the weights a training starts with."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    else:
        return
    bias = getattr(module, "bias", None)
    if bias is not None:
        nn.init.zeros_(bias)
