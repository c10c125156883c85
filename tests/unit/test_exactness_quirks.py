"""What a comparison of outputs cannot see: small constants, dropout's places, defaults, limits."""

from __future__ import annotations

import math

import plain_tap
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datamodules.decoding.pictures import PAD_COLOUR
from tap_platform.models import ConceptProjector, Tap, TapConfig
from tap_platform.models.batch_norm import SynchronizedBatchNorm
from tap_platform.models.prompt_encoder import PromptEncoder
from tap_platform.models.released import to_released
from tap_platform.models.text_decoder import BEGIN, END
from tap_platform.objectives.routing import route

TINY = TapConfig.preset("tiny", image_size=64, window_size=2, encoder_dim=32)
BOX = torch.tensor([[[8.0, 8.0], [40.0, 56.0]]]), torch.tensor([[2, 3]]), torch.tensor([0])


def dropping(**rates):
    torch.manual_seed(0)
    return Tap(TINY.replaced(**{"decoder_dropout": 0.0, "text_dropout": 0.0, **rates})).train()


@pytest.fixture(scope="module")
def tap():
    torch.manual_seed(0)
    return Tap(TINY).eval()


def test_every_norm_has_the_released_epsilon(tap):
    """Segment Anything and MAE have 1e-6 in places; TAP has 1e-5 everywhere."""
    norms = {
        name: module.eps
        for name, module in tap.named_modules()
        if isinstance(module, nn.LayerNorm | SynchronizedBatchNorm)
    }
    assert set(norms.values()) == {1e-5}
    assert "image_decoder.output_conv.1" in norms
    assert "text_decoder.transformer.norm" in norms
    assert len(norms) == 4 * 2 + 1 + 4 * 3 + 2 + 2 * 4 + 1 + 1 + 2 * 2 + 1


def test_a_norm_of_nearly_equal_numbers_shows_its_epsilon(tap):
    nearly_equal = 1e-3 * torch.tensor([-1.0, 1.0])
    for name in (
        "image_encoder.norm",
        "image_decoder.transformer.norm",
        "text_decoder.transformer.norm",
    ):
        norm = tap.get_submodule(name)
        width = norm.normalized_shape[0]
        expected = 1e-3 / math.sqrt(1e-6 + 1e-5)
        found = norm(nearly_equal.repeat(width // 2))[1] / norm.weight[1]
        assert found.item() == pytest.approx(expected, rel=1e-4), name


def test_batch_norms_learn_their_statistics_by_a_tenth(tap):
    norms = [m for m in tap.modules() if isinstance(m, SynchronizedBatchNorm)]
    assert len(norms) == 4 * 3 + 2
    assert {norm.momentum for norm in norms} == {0.1}


def test_the_circle_of_places_is_the_released_one():
    """The released code writes 3.1415926; far from the middle that is not pi."""
    encoder = PromptEncoder(4)
    encoder.coord_matrix = torch.full((2, 2), 2.0**20)
    angle = 2 * 3.1415926 * torch.tensor(2.0**20 * (1 + 1))
    point = encoder(torch.tensor([[[63.5, 63.5]]]), torch.tensor([[1]]), (64, 64))[0, 0]
    code = (point - encoder.point_embed.weight[1]).double()
    expected = torch.tensor([angle.sin()] * 2 + [angle.cos()] * 2).double()
    torch.testing.assert_close(code, expected, atol=1e-5, rtol=0)


def test_the_last_pixel_is_clamped_and_the_first_is_not():
    encoder = PromptEncoder(4)
    places = torch.tensor([[[-0.5, 0.0], [-7.0, 0.0], [0.0, 0.0], [63.5, 0.0], [64.0, 0.0]]])
    tokens = encoder(places, torch.full((1, 5), 2), (64, 64))[0]
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.allclose(tokens[0], tokens[2])
    assert torch.equal(tokens[3], tokens[4])


def test_no_pad_is_added_to_what_was_asked(tap):
    seen = []
    hook = tap.prompt_encoder.register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
    tap.decode(torch.zeros(1, 64, 4, 4), *BOX)
    hook.remove()
    assert seen == [2]


def test_a_click_beside_a_pad_is_answered_unlike_a_click_alone(tap):
    image = torch.randn(1, 64, 4, 4)
    click = torch.tensor([[[20.0, 30.0], [1.0, 2.0]]])
    padded = tap.decode(image, click, torch.tensor([[1, 4]]), torch.tensor([0]))
    alone = tap.decode(image, click[:, :1], torch.tensor([[1]]), torch.tensor([0]))
    assert not torch.allclose(padded.iou, alone.iou, atol=1e-4)


def test_colours_of_a_new_model_are_those_released():
    state = to_released(Tap(TINY).state_dict())
    torch.testing.assert_close(state["pixel_mean"], torch.tensor(plain_tap.MEAN_BGR))
    torch.testing.assert_close(1 / state["pixel_rsig"], torch.tensor(plain_tap.STD_BGR))


def test_the_pad_colour_is_the_mean_cut_to_whole_numbers(tap):
    assert PAD_COLOUR[::-1] == tuple(int(mean) for mean in plain_tap.MEAN_BGR)
    padded = tap.normalize(torch.tensor(PAD_COLOUR).view(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(padded, torch.tensor([-0.0116, -0.0049, -0.0092]), atol=1e-4, rtol=0)


def test_defaults_are_those_of_the_paper_and_the_code():
    config = TapConfig()
    assert (config.decoder_dropout, config.text_dropout, config.drop_path) == (0.1, 0.4, 0.1)
    assert (config.image_size, config.patch_size, config.window_size) == (1024, 16, 16)
    assert (config.text_length, config.vocab_size, config.text_heads) == (40, 32000, 8)
    assert (config.decoder_heads, config.decoder_depth, config.embed_dim) == (8, 2, 256)
    assert config.mask_size == 256
    assert TapConfig.preset("vit_l").drop_path == 0.2
    assert {n: TapConfig.preset(n).encoder_heads for n in ("vit_b", "vit_l", "vit_h")} == {
        "vit_b": 12,
        "vit_l": 16,
        "vit_h": 16,
    }


@pytest.mark.parametrize(
    ("name", "millions"), [("vit_b", 174.55), ("vit_l", 399.31), ("vit_h", 735.79)]
)
def test_parameters_are_as_many_as_released(name, millions):
    with torch.device("meta"):
        tap = Tap(TapConfig.preset(name))
    assert sum(p.numel() for p in tap.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.fixture
def attention_dropout(monkeypatch):
    """The dropout on attention probabilities of every attention that runs."""
    seen = []
    attend = F.scaled_dot_product_attention

    def watched(*args, dropout_p=0.0, **kwargs):
        seen.append(dropout_p)
        return attend(*args, dropout_p=dropout_p, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    return seen


def test_image_decoder_has_no_dropout_on_attention_probabilities(attention_dropout):
    tap = dropping(decoder_dropout=0.5)
    tap.decode(torch.randn(1, 64, 4, 4), *BOX)
    assert set(attention_dropout) <= {0.0}


def test_image_encoder_has_no_dropout_but_that_of_paths(attention_dropout):
    tap = dropping(decoder_dropout=0.5, text_dropout=0.5)
    assert not any(isinstance(module, nn.Dropout) for module in tap.image_encoder.modules())
    tap.encode(torch.randn(1, 3, 64, 64))
    assert set(attention_dropout) <= {0.0}


def test_text_decoder_drops_attention_probabilities_in_training_only(attention_dropout):
    tap = dropping(text_dropout=0.25)
    words = torch.full((2, 5), BEGIN)
    tap.text_logits(torch.randn(2, 64), words)
    assert attention_dropout == [0.25, 0.25]
    attention_dropout.clear()
    tap.eval().text_logits(torch.randn(2, 64), words)
    assert attention_dropout == [0.0, 0.0]


def test_text_dropout_is_behind_attention_and_behind_the_mlp():
    """Dropped wholly, a block gives back what it was given: nothing else in it is dropped."""
    tap = dropping(text_dropout=0.999999)
    block = tap.text_decoder.transformer.blocks[0]
    for parameter in (block.attn.proj.bias, block.mlp.fc2.bias):
        nn.init.ones_(parameter)
    changed = []
    block.register_forward_hook(lambda _, args, out: changed.append(out - args[0]))
    embedded = []
    tap.text_decoder.transformer.register_forward_hook(lambda _, args, out: embedded.append(args))
    words = torch.randint(3, 60, (2, 5))
    tap.text_logits(torch.randn(2, 64), words)
    assert not changed[0].any()
    # Neither the words nor the semantic token are dropped on their way in.
    table = tap.text_decoder.transformer.tok_embeddings.weight
    assert torch.equal(embedded[0][0][:, 1:], table[words])
    drops = [m for m in tap.text_decoder.modules() if isinstance(m, nn.Dropout)]
    assert {m.p for m in drops} == {0.999999}


def test_captions_have_at_most_38_words_after_the_first():
    config = TapConfig.preset("tiny", image_size=64, window_size=2, encoder_dim=32)
    assert config.text_length == TapConfig().text_length
    tap = Tap(config).eval()
    nn.init.zeros_(tap.text_decoder.transformer.text_proj.weight)
    caption = tap.caption(torch.randn(2, 64), max_tokens=1000)
    assert END not in caption
    assert caption.shape == (2, 38)


def test_words_and_their_logits_are_not_tied(tap):
    transformer = tap.text_decoder.transformer
    assert transformer.text_proj.weight is not transformer.tok_embeddings.weight
    assert transformer.text_proj.bias is None
    assert tap.text_decoder.encoder.bias is None


def test_the_answer_is_mask_0_for_boxes_and_the_best_of_the_others_for_points():
    draw = torch.Generator().manual_seed(0)
    iou = torch.randn(40, 4, generator=draw)
    iou[:9, 0] += 9
    labels = torch.tensor([[2, 3], [1, 4], [0, 1], [1, 2]]).repeat(10, 1)
    expected = plain_tap.select(iou, labels)
    assert torch.equal(route(labels[:, 0] == 2, iou), expected)
    assert set(expected.tolist()) == {0, 1, 2, 3}


def test_concepts_carry_the_temperature_that_files_have_baked_in():
    draw = torch.Generator().manual_seed(0)
    columns = torch.randn(16, 30, generator=draw)
    columns = 100 * columns / columns.norm(dim=0)
    embeddings = 3 * torch.randn(5, 16, generator=draw)
    expected = plain_tap.concept_probabilities(embeddings.double(), columns.double())
    found = ConceptProjector(columns.T)(embeddings).exp().double()
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_every_parameter_learns_by_back_propagation():
    """The released code cannot: it changes in place what autograd still needs."""
    tap = dropping()
    output = tap(torch.randn(1, 3, 64, 64), *BOX)
    logits = tap.text_logits(output.semantic_tokens[:, 0], torch.tensor([[BEGIN, 5, 6]]))
    sum(part.square().mean() for part in (*output, logits)).backward()
    assert all(parameter.grad is not None for parameter in tap.parameters())
