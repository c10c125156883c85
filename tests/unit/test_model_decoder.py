from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tap_platform.models import TapConfig
from tap_platform.models.image_decoder import ImageDecoder
from tap_platform.models.prompt_encoder import PromptEncoder
from tap_platform.models.two_way_transformer import TwoWayTransformer

FRAME = (64, 128)
CONFIG = TapConfig.preset("tiny", embed_dim=16, concept_dim=8, decoder_dropout=0.0)


@pytest.fixture
def prompts():
    torch.manual_seed(0)
    return PromptEncoder(16)


def encode(prompts, x, y, label):
    return prompts(torch.tensor([[[x, y]]]), torch.tensor([[label]]), FRAME)[0, 0]


def test_a_point_is_the_fourier_code_of_its_pixel_centre_plus_its_label(prompts):
    x, y = 2 * (30 + 0.5) / 128 - 1, 2 * (7 + 0.5) / 64 - 1
    angle = 2 * math.pi * (x * prompts.coord_matrix[0] + y * prompts.coord_matrix[1])
    expected = torch.cat((angle.sin(), angle.cos())) + prompts.point_embed.weight[3]
    torch.testing.assert_close(encode(prompts, 30.0, 7.0, 3), expected)


def test_points_outside_the_frame_move_to_its_border(prompts):
    assert torch.equal(encode(prompts, -40.0, 500.0, 1), encode(prompts, -0.5, 63.5, 1))


def test_a_pad_ignores_its_place(prompts):
    assert torch.equal(encode(prompts, 30.0, math.nan, 4), prompts.point_embed.weight[4])


def test_image_code_is_that_of_points_in_the_middle_of_cells(prompts):
    code = prompts.image_code((4, 8)).view(4, 8, 16)
    point = encode(prompts, 16 * 5 + 7.5, 16 * 2 + 7.5, 1) - prompts.point_embed.weight[1]
    torch.testing.assert_close(code[2, 5], point)


def test_image_codes_of_two_grids_with_as_many_cells_differ(prompts):
    wide, square = prompts.image_code((2, 8)), prompts.image_code((4, 4))
    assert wide.shape == square.shape
    assert not torch.allclose(wide, square)


def test_places_stay_precise_under_autocast(prompts):
    precise = prompts.image_code((4, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prompts.image_code((4, 8)), precise)


def attend(attention, query, key, value):
    q, k, v = (
        projection(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for projection, x in (
            (attention.q_proj, query),
            (attention.k_proj, key),
            (attention.v_proj, value),
        )
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return attention.proj((weights @ v).transpose(1, 2).flatten(2))


def two_way(made, tokens, image, image_code, scale):
    """The wiring of Segment Anything, each prompt with its own image; `scale` is on dropout."""
    code = tokens
    for i, block in enumerate(made.blocks):
        if i == 0:
            tokens = block.norm1(attend(block.self_attn, tokens, tokens, tokens))
        else:
            q = tokens + code
            tokens = block.norm1(tokens + scale * attend(block.self_attn, q, q, tokens))
        q, k = tokens + code, image + image_code
        tokens = block.norm2(tokens + scale * attend(block.cross_attn_token_to_image, q, k, image))
        tokens = block.norm3(tokens + scale * block.mlp.fc2(block.mlp.fc1(tokens).relu()))
        q, k = tokens + code, image + image_code
        image = block.norm4(image + attend(block.cross_attn_image_to_token, k, q, tokens))
    q, k = tokens + code, image + image_code
    read = attend(made.final_attn_token_to_image, q, k, image)
    return made.norm(tokens + scale * read), image


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_transformer_is_wired_as_in_segment_anything(dropout):
    torch.manual_seed(0)
    made = TwoWayTransformer(dim=16, depth=3, heads=2, dropout=dropout)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    tokens, image, code = torch.randn(5, 4, 16), torch.randn(2, 6, 16), torch.randn(6, 16)
    image_index = torch.tensor([1, 0, 0, 1, 1])
    ours = made(tokens, made.prepare(image, code), image_index)
    expected = two_way(made, tokens, image[image_index], code, scale=1 - dropout)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return ImageDecoder(CONFIG)


def decode(decoder, count=3):
    return decoder(
        torch.randn(2, 16, 4, 6),
        torch.randn(24, 16),
        torch.randn(count, 2, 16),
        torch.arange(count) % 2,
    )


def test_tokens_are_semantic_then_iou_then_mask_then_prompts(decoder):
    seen = []
    decoder.transformer.register_forward_hook(lambda _, args, out: seen.append((args[0], out[0])))
    heads = {"iou": decoder.iou_pred, "semantic": decoder.sem_pred}
    heads |= {f"mask {i}": head for i, head in enumerate(decoder.mask_pred)}
    read = {}
    for name, head in heads.items():
        head.register_forward_hook(lambda _, args, out, name=name: read.update({name: args[0]}))
    output = decode(decoder)
    (given, answered) = seen[0]
    tables = (decoder.sem_tokens.weight, decoder.iou_token.weight, decoder.mask_tokens.weight)
    assert torch.equal(given[1, :9], torch.cat(tables))
    assert given.shape[1] == 11
    assert torch.equal(output.semantic_tokens, answered[:, 0:4])
    assert torch.equal(read["semantic"], answered[:, 0:4])
    assert torch.equal(read["iou"], answered[:, 4])
    assert torch.equal(output.mask_tokens, answered[:, 5:9])
    for i in range(4):
        assert torch.equal(read[f"mask {i}"], answered[:, 5 + i])


def upscale(decoder, image):
    """The transposed convolutions as such, on maps."""
    first, norm, _, second, _ = decoder.output_conv
    x = nn.functional.conv_transpose2d(image, first.weight, first.bias, stride=2)
    x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    x = nn.functional.gelu(x)
    x = nn.functional.conv_transpose2d(x, second.weight, second.bias, stride=2)
    return nn.functional.gelu(x)


def test_masks_are_filters_over_the_upscaled_image(decoder):
    seen = {}
    for parameter in decoder.output_conv.parameters():
        nn.init.normal_(parameter)
    decoder.transformer.register_forward_hook(lambda _, args, out: seen.update(image=out[1]))
    decoder.mask_pred[2].register_forward_hook(lambda _, args, out: seen.update(filter=out))
    masks = decode(decoder).masks
    assert masks.shape == (3, 4, 16, 24)
    pixels = upscale(decoder, seen["image"].transpose(1, 2).unflatten(2, (4, 6)))
    expected = torch.einsum("mc,mchw->mhw", seen["filter"], pixels)
    torch.testing.assert_close(masks[:, 2], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 5])
def test_prompts_that_take_turns_get_the_same_answers(decoder, count):
    inputs = (
        torch.randn(3, 16, 4, 6),
        torch.randn(24, 16),
        torch.randn(count, 2, 16),
        torch.tensor([2, 0, 2, 0, 2])[:count],
    )
    together = decoder(*inputs)
    calls = []
    decoder.sem_pred.register_forward_hook(lambda _, args, out: calls.append(len(args[0])))
    two_prompts = 2 * 5 * 24 * 16 * 4
    with torch.no_grad():
        in_turns = decoder(*inputs, memory_budget=two_prompts)
    assert calls == ([1] if count == 1 else [2, 2, 1])
    for ours, expected in zip(in_turns, together, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    decoder(*inputs, memory_budget=1)
    assert calls[-1] == count


def test_no_prompt_gives_empty_answers_with_gradients(decoder):
    output = decode(decoder, count=0)
    assert output.masks.shape == (0, 4, 16, 24)
    sum(part.sum() for part in output).backward()


def test_every_layer_norm_uses_the_released_epsilon(decoder):
    norms = [part for part in decoder.modules() if isinstance(part, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert any(norm is decoder.output_conv[1] for norm in norms)
