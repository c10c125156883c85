from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from tap_platform.models import TapConfig
from tap_platform.models.image_encoder import Bottleneck, ImageEncoder, resize_positions
from tap_platform.models.window_attention import (
    DropPath,
    RelativePositionBias,
    WindowAttention,
    WindowBlock,
    merge,
    partition,
)

SMALL = TapConfig.preset(
    "tiny", image_size=64, window_size=2, encoder_depth=8, encoder_dim=16, encoder_heads=2
)


def encoder(**changes):
    torch.manual_seed(0)
    made = ImageEncoder(SMALL.replaced(**changes))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def test_windows_are_tiles_in_reading_order():
    grid = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = partition(grid, 2)
    assert windows.shape == (2 * 6, 4, 1)
    assert windows[0].flatten().tolist() == [0, 1, 6, 7]
    assert windows[1].flatten().tolist() == [2, 3, 8, 9]
    assert windows[3].flatten().tolist() == [12, 13, 18, 19]
    assert windows[6, 0] == 24


def test_merge_inverts_partition_on_a_grid_that_is_not_square():
    grid = torch.randn(2, 4, 6, 3)
    assert torch.equal(merge(partition(grid, 2), (4, 6), 2), grid)


def test_bias_index_is_that_of_the_offset_from_key_to_query():
    index = RelativePositionBias(heads=1, window_size=16).index
    assert index.dtype == torch.int64
    for i, j in [(0, 0), (0, 255), (255, 0), (17, 3), (100, 231)]:
        rows, columns = i // 16 - j // 16, i % 16 - j % 16
        assert index[i, j] == (rows + 15) * 31 + columns + 15


def test_attention_adds_the_bias_to_scaled_scores():
    torch.manual_seed(0)
    attention = WindowAttention(dim=12, heads=3, window_size=2)
    nn.init.normal_(attention.rel_pos_embed.weight)
    x = torch.randn(5, 4, 12)
    query, key, value = (
        part.view(5, 4, 3, 4).transpose(1, 2) for part in attention.qkv(x).chunk(3, -1)
    )
    bias = attention.rel_pos_embed.weight[:, attention.rel_pos_embed.index]
    scores = query @ key.transpose(-1, -2) / math.sqrt(4) + bias
    expected = attention.proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(5, 4, 12))
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("grow", ["in place", "loaded", "assigned", "by data in training"])
def test_bias_is_kept_in_evaluation_until_the_weights_change(grow):
    made = RelativePositionBias(heads=2, window_size=2).eval()
    with torch.no_grad():
        first = made()
        assert made() is first
        grown = {"weight": made.weight + 1, "index": made.index}
        if grow == "in place":
            made.weight.add_(1)
        elif grow == "by data in training":
            made.train()
            made.weight.data += 1
            made.eval()
        else:
            made.load_state_dict(grown, assign=grow == "assigned")
        assert torch.equal(made(), torch.ones(2, 4, 4))
    assert made().requires_grad


def test_windows_do_not_see_each_other_inside_a_block():
    block = WindowBlock(dim=16, heads=2, window_size=2, drop_path=0.0)
    x = torch.randn(3, 4, 16)
    changed = x.clone()
    changed[1] += 1
    same = (block(x) == block(changed)).flatten(1).all(1)
    assert same.tolist() == [True, False, True]


def test_drop_path_drops_whole_windows_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(4000, 2, 3))
    assert torch.equal(dropped.amin((1, 2)), dropped.amax((1, 2)))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(torch.ones(9, 2)), torch.ones(9, 2))


def test_drop_path_grows_linearly_with_depth_and_draws_for_each_window():
    made = encoder(drop_path=0.7)
    assert [block.drop_path.rate for block in made.blocks] == pytest.approx(
        [0.1 * i for i in range(8)]
    )
    seen = []
    made.blocks[7].drop_path.register_forward_hook(lambda _, args, out: seen.append(len(args[0])))
    made(torch.randn(3, 3, 64, 64))
    assert seen == [3 * 4, 3 * 4]


def test_drop_path_is_on_both_branches_of_a_block():
    block = WindowBlock(dim=16, heads=2, window_size=2, drop_path=0.5)
    block.drop_path.forward = torch.zeros_like
    x = torch.randn(2, 4, 16)
    assert torch.equal(block(x), x)


def test_parts_run_in_the_released_order():
    made = encoder()
    ran = []
    for name, part in made.named_modules():
        if re.fullmatch(r"norm|(blocks|cross_conv)\.\d", name):
            part.register_forward_hook(lambda *_, name=name: ran.append(name))
    made(torch.randn(1, 3, 64, 64))
    expected = []
    for quarter in range(4):
        expected += [f"blocks.{2 * quarter}", f"blocks.{2 * quarter + 1}"]
        expected += ["norm"] * (quarter == 3) + [f"cross_conv.{quarter}"]
    assert ran == expected


def test_new_bottleneck_is_the_identity():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(Bottleneck(8)(x), x)


def test_every_layer_norm_uses_the_released_epsilon():
    norms = [part for part in encoder().modules() if isinstance(part, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (128, 32)])
def test_any_size_that_windows_tile_is_encoded(size):
    out = encoder()(torch.randn(2, 3, *size))
    assert out.shape == (2, SMALL.embed_dim, size[0] // 16, size[1] // 16)


def test_a_size_that_windows_do_not_tile_is_refused():
    with pytest.raises(ValueError, match=r"48 x 64 pixels.*32 x 32.*multiple"):
        encoder()(torch.randn(1, 3, 48, 64))


def test_positions_are_added_row_by_row():
    made = encoder()
    nn.init.zeros_(made.patch_embed.proj.weight)
    nn.init.zeros_(made.patch_embed.proj.bias)
    seen = []
    made.blocks[0].register_forward_hook(lambda _, args, out: seen.append(args[0]))
    made(torch.randn(1, 3, 64, 64))
    assert torch.equal(seen[0][1], made.pos_embed.weight[[2, 3, 6, 7]])


def test_positions_of_another_grid_are_interpolated():
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    table = torch.stack((rows.flatten(), columns.flatten()), 1)
    assert resize_positions(table, (8, 8)) is table
    wide = resize_positions(table, (8, 16)).view(8, 16, 2)
    torch.testing.assert_close(wide[:, :, 0], rows[:, :1].expand(8, 16))
    ramp = (torch.arange(4, 12) + 0.5) / 2 - 0.5
    torch.testing.assert_close(wide[0, 4:12, 1], ramp, atol=0.05, rtol=0)


def test_activation_checkpointing_changes_no_bit():
    results = []
    for activation_checkpointing in (False, True):
        made = encoder(activation_checkpointing=activation_checkpointing, drop_path=0.5)
        torch.manual_seed(1)
        out = made(torch.randn(2, 3, 64, 64))
        out.square().sum().backward()
        results.append([out, *(parameter.grad for parameter in made.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)
