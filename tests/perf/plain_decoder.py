"""The decoders of TAP written plainly: every prompt, and every word, repeats all work.

The weights are those of the model it is given; only the computation differs from the product's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tap_platform.models import RegionOutput, Tap
from tap_platform.models.image_decoder import CANDIDATES, ImageDecoder
from tap_platform.models.text_decoder import BEGIN, rotary_angles
from tap_platform.models.two_way_transformer import Attention, TwoWayBlock


def decode(
    tap: Tap, image_embeddings: Tensor, points: Tensor, labels: Tensor, image_index: Tensor
) -> RegionOutput:
    """As `Tap.decode`, with a copy of the image embedding for every prompt."""
    grid = image_embeddings.shape[-2:]
    height, width = grid
    frame = height * tap.config.patch_size, width * tap.config.patch_size
    decoder = tap.image_decoder
    prompts = tap.prompt_encoder(points, labels, frame)
    code = tap.prompt_encoder.image_code((height, width))
    image = image_embeddings[image_index].flatten(2).transpose(1, 2)
    learned = torch.cat((decoder.sem_tokens(), decoder.iou_token(), decoder.mask_tokens()))
    tokens = torch.cat((learned.expand(len(prompts), -1, -1), prompts), 1)
    tokens, image = _transform(decoder, tokens, image, code)
    semantic, iou, mask = tokens[:, :9].split((CANDIDATES, 1, CANDIDATES), 1)
    return RegionOutput(
        masks=_masks(decoder, mask, image.transpose(1, 2).unflatten(2, grid)),
        iou=decoder.iou_pred(iou[:, 0]).float(),
        semantic_tokens=semantic,
        mask_tokens=mask,
        concept_embeddings=decoder.sem_pred(semantic),
    )


def _transform(
    decoder: ImageDecoder, tokens: Tensor, image: Tensor, code: Tensor
) -> tuple[Tensor, Tensor]:
    transformer, token_code = decoder.transformer, tokens
    for block in transformer.blocks:
        assert isinstance(block, TwoWayBlock)
        tokens, image = _block(block, tokens, image, token_code, code)
    read = _attend(transformer.final_attn_token_to_image, tokens + token_code, image + code, image)
    return transformer.norm(tokens + transformer.dropout(read)), image


def _block(
    block: TwoWayBlock, tokens: Tensor, image: Tensor, token_code: Tensor, code: Tensor
) -> tuple[Tensor, Tensor]:
    if block.first:
        tokens = _attend(block.self_attn, tokens, tokens, tokens)
    else:
        places = tokens + token_code
        tokens = tokens + block.dropout(_attend(block.self_attn, places, places, tokens))
    tokens = block.norm1(tokens)
    read = _attend(block.cross_attn_token_to_image, tokens + token_code, image + code, image)
    tokens = block.norm2(tokens + block.dropout(read))
    tokens = block.norm3(tokens + block.dropout(block.mlp(tokens)))
    written = _attend(block.cross_attn_image_to_token, image + code, tokens + token_code, tokens)
    return tokens, block.norm4(image + written)


def _attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (
        F.linear(x, projection.weight, projection.bias)
        .unflatten(-1, (attention.heads, -1))
        .transpose(1, 2)
        for projection, x in (
            (attention.q_proj, query),
            (attention.k_proj, key),
            (attention.v_proj, value),
        )
    )
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return F.linear(out, attention.proj.weight, attention.proj.bias)


def _masks(decoder: ImageDecoder, tokens: Tensor, image: Tensor) -> Tensor:
    layers: Any = decoder.output_conv
    first, norm, _, second, _ = layers
    x = F.conv_transpose2d(image, first.weight, first.bias, stride=2).permute(0, 2, 3, 1)
    x = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    x = F.gelu(x.permute(0, 3, 1, 2))
    x = F.gelu(F.conv_transpose2d(x, second.weight, second.bias, stride=2))
    heads = zip(decoder.mask_pred, tokens.unbind(1), strict=True)
    filters = torch.stack([head(token) for head, token in heads], 1)
    return (filters @ x.flatten(2)).unflatten(2, x.shape[-2:])


@torch.no_grad()
def caption(tap: Tap, semantic_tokens: Tensor, max_tokens: int) -> Tensor:
    """As `Tap.caption` before the first end of a text, reading all words again for the next."""
    words = torch.full((len(semantic_tokens), 1), BEGIN, device=semantic_tokens.device)
    for _ in range(max_tokens):
        likeliest = _last_logits(tap, semantic_tokens, words).argmax(-1)
        words = torch.cat((words, likeliest[:, None]), 1)
    return words[:, 1:]


def _last_logits(tap: Tap, semantic_tokens: Tensor, words: Tensor) -> Tensor:
    """Logits of the next word only: the projection to words is not repeated."""
    text, transformer = tap.text_decoder, tap.text_decoder.transformer
    prompt = text.encoder(semantic_tokens)[:, None]
    x = torch.cat((prompt, transformer.tok_embeddings(words)), 1)
    angles = rotary_angles(0, x.shape[1], transformer.head_dim, x.device)
    for block in transformer.blocks:
        x = block(x, angles, None)
    return transformer.text_proj(transformer.norm(x[:, -1]))
