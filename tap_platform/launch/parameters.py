"""How many parameters a model has, by arithmetic: a plan imports no torch."""

from __future__ import annotations

from tap_platform.config.model import TapConfig

MASKS = 4
POINT_LABELS = 5


def count_parameters(config: TapConfig) -> dict[str, int]:
    """Parameters of the four parts, buffers left out.

    Returns:
        Counts under `image_encoder`, `prompt_encoder`, `image_decoder` and `text_decoder`.
    """
    return {
        "image_encoder": _image_encoder(config),
        "prompt_encoder": POINT_LABELS * config.embed_dim,
        "image_decoder": _image_decoder(config),
        "text_decoder": _text_decoder(config),
    }


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _norm(dim: int) -> int:
    return 2 * dim


def _transformer_block(dim: int) -> int:
    """Pre-norm block: fused qkv, projection, MLP of ratio 4, two norms."""
    attention = _linear(dim, 3 * dim) + _linear(dim, dim)
    return attention + _linear(dim, 4 * dim) + _linear(4 * dim, dim) + 2 * _norm(dim)


def _image_encoder(config: TapConfig) -> int:
    dim, half, out = config.encoder_dim, config.encoder_dim // 2, config.embed_dim
    bias_table = config.encoder_heads * (2 * config.window_size - 1) ** 2
    bottleneck = dim * half + 9 * half * half + half * dim + 2 * _norm(half) + _norm(dim)
    neck = dim * out + _norm(out) + 9 * out * out + _norm(out)
    return (
        _linear(3 * config.patch_size**2, dim)
        + config.grid_size**2 * dim
        + config.encoder_depth * (_transformer_block(dim) + bias_table)
        + _norm(dim)
        + 4 * bottleneck
        + neck
    )


def _image_decoder(config: TapConfig) -> int:
    dim, concept = config.embed_dim, config.concept_dim
    half, quarter, eighth = dim // 2, dim // 4, dim // 8
    self_attention = 4 * _linear(dim, dim)
    cross_attention = 3 * _linear(dim, half) + _linear(half, dim)
    mlp = _linear(dim, 8 * dim) + _linear(8 * dim, dim)
    block = self_attention + 2 * cross_attention + mlp + 4 * _norm(dim)
    upscaler = 4 * dim * quarter + quarter + _norm(quarter) + 4 * quarter * eighth + eighth
    mask_head = 2 * _linear(dim, dim) + _linear(dim, eighth)
    iou_head = 2 * _linear(dim, dim) + _linear(dim, MASKS)
    concept_head = _linear(dim, concept) + 2 * _linear(concept, concept)
    tokens = (2 * MASKS + 1) * dim
    return (
        tokens
        + config.decoder_depth * block
        + cross_attention
        + _norm(dim)
        + upscaler
        + MASKS * mask_head
        + iou_head
        + concept_head
    )


def _text_decoder(config: TapConfig) -> int:
    dim = config.text_dim
    return (
        config.embed_dim * dim
        + config.text_depth * _transformer_block(dim)
        + _norm(dim)
        + 2 * config.vocab_size * dim
    )
