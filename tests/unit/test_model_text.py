from __future__ import annotations

import pytest
import torch
from torch import nn

from tap_platform.models import TapConfig
from tap_platform.models.text_decoder import (
    BEGIN,
    END,
    TextDecoder,
    draw_words,
    rotary_angles,
    rotate,
)

CONFIG = TapConfig.preset(
    "tiny", embed_dim=16, text_dim=32, text_heads=2, text_length=10, vocab_size=20
)
CPU = torch.device("cpu")


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    made = TextDecoder(CONFIG).eval()
    for parameter in made.parameters():
        # Biases are small, or one word is likeliest whatever went before.
        nn.init.normal_(parameter, std=0.4 if parameter.ndim == 2 else 0.1)
    made.transformer.norm.reset_parameters()
    return made


def test_rotary_turns_adjacent_pairs():
    x = torch.randn(3, 2, 5, 8)
    turned = rotate(x, rotary_angles(2, 5, 8, CPU))
    pairs = torch.complex(x[..., 0::2], x[..., 1::2])
    for position in range(5):
        for pair in range(4):
            angle = torch.tensor((position + 2) * 10000 ** (-2 * pair / 8))
            expected = pairs[..., position, pair] * torch.polar(torch.tensor(1.0), angle)
            got = torch.complex(
                turned[..., position, 2 * pair], turned[..., position, 2 * pair + 1]
            )
            torch.testing.assert_close(got, expected)


def test_the_semantic_token_is_position_zero_and_its_logits_are_dropped(decoder):
    seen = []
    decoder.transformer.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    semantic, words = torch.randn(3, 16), torch.randint(20, (3, 6))
    logits = decoder(semantic, words)
    given, answered = seen[0]
    assert torch.equal(given[:, 0], semantic @ decoder.encoder.weight.T)
    assert torch.equal(given[:, 1:], decoder.transformer.tok_embeddings.weight[words])
    assert torch.equal(logits, answered[:, 1:])
    assert logits.dtype == torch.float32


def test_logits_depend_on_the_region_and_on_the_past_only(decoder):
    semantic, words = torch.randn(2, 16), torch.randint(20, (2, 7))
    logits = decoder(semantic, words)
    changed = words.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 20
    same = torch.isclose(decoder(semantic, changed), logits).all(-1)
    assert same.tolist() == [[True] * 4 + [False] * 3] * 2
    assert not torch.isclose(decoder(semantic + 1, words), logits).all(-1).any()


def test_dropout_acts_in_training_only(decoder):
    semantic, words = torch.randn(2, 16), torch.randint(20, (2, 7))
    assert torch.equal(decoder(semantic, words), decoder(semantic, words))
    decoder.train()
    assert not torch.equal(decoder(semantic, words), decoder(semantic, words))


def test_a_text_that_is_too_long_is_refused(decoder):
    decoder(torch.randn(1, 16), torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"10 tokens is too long.*holds 9"):
        decoder(torch.randn(1, 16), torch.zeros(1, 10, dtype=torch.int64))


def test_caption_is_the_likeliest_word_after_word(decoder):
    with torch.no_grad():
        decoder.transformer.text_proj.weight[END] = 0
    semantic = torch.randn(6, 16)
    words = torch.full((6, 1), BEGIN)
    for _ in range(8):
        likeliest = decoder(semantic, words)[:, -1].argmax(-1)
        words = torch.cat((words, likeliest[:, None]), 1)
    assert END not in words
    caption = decoder.generate(semantic, max_tokens=100)
    assert torch.equal(caption, words[:, 1:])
    assert torch.equal(decoder.generate(semantic, max_tokens=3), words[:, 1:4])


def test_caption_pads_after_the_end_and_stops_when_all_rows_ended(decoder):
    script = iter(([5, END, 6], [END, 8], [END], [4]))

    def scripted(x, caches):
        return torch.eye(20)[torch.tensor(next(script))][:, None].expand(-1, x.shape[1], -1)

    decoder.transformer.forward = scripted
    pad = 19
    assert decoder.generate(torch.randn(3, 16), max_tokens=8).tolist() == [
        [5, END, pad],
        [END, pad, pad],
        [6, 8, END],
    ]


def greedy_without_cache(decoder, semantic, most):
    """Every word from the whole text so far; a row pads after its end."""
    words = torch.full((len(semantic), 1), BEGIN)
    for _ in range(most):
        likeliest = decoder(semantic, words)[:, -1].argmax(-1)
        ended = (words == END).any(1)
        words = torch.cat((words, likeliest.masked_fill(ended, decoder.pad)[:, None]), 1)
        if (words == END).any(1).all():
            break
    return words[:, 1:]


def test_rows_that_end_leave_the_batch_and_change_no_other(decoder):
    semantic = 3 * torch.randn(64, 16)
    said = nn.functional.one_hot(decoder.generate(semantic, max_tokens=8), 20).amax(1)
    halfway = int((said.float().mean(0) - 0.5).abs().argmin())
    with torch.no_grad():  # a word that about half of the rows say becomes the end
        words = decoder.transformer.text_proj.weight
        words[[END, halfway]] = words[[halfway, END]]
    rows = []
    decoder.transformer.register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    caption = decoder.generate(semantic, max_tokens=8)
    seen, living = list(rows), [64]
    for step in range(caption.shape[1] - 1):
        living.append(int((~(caption[:, : step + 1] == END).any(1)).sum()))
    assert seen == living
    assert 0 < living[-1] < 48
    assert len(set(living)) > 2
    assert torch.equal(caption, greedy_without_cache(decoder, semantic, 8))


def test_at_most_text_length_less_two_words_are_given(decoder):
    with torch.no_grad():
        decoder.transformer.text_proj.weight[END] = 0
    assert decoder.generate(torch.randn(2, 16), max_tokens=50).shape == (2, 8)


def test_words_are_drawn_by_their_probability():
    logits = torch.tensor([[0.0, -torch.inf, 1.0, 2.0]])
    draws = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    words = draw_words(logits.expand(10_000, -1), draws)
    shares = words.bincount(minlength=4) / 10_000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=2e-4, rtol=0)
    assert draw_words(logits, torch.tensor([1 - 2**-53], dtype=torch.float64)).item() == 3


def test_sampling_depends_on_the_generator_and_the_temperature(decoder):
    semantic = torch.randn(8, 16)

    def sample(seed, temperature):
        return decoder.generate(semantic, 8, temperature, torch.Generator().manual_seed(seed))

    assert torch.equal(sample(1, 1.0), sample(1, 1.0))
    assert not torch.equal(sample(1, 1.0), sample(2, 1.0))
    assert torch.equal(sample(1, 1e-6), decoder.generate(semantic, 8))


def test_a_row_is_drawn_alike_whenever_others_end(decoder):
    semantic = torch.randn(6, 16)
    both = [
        decoder.generate(rows, 8, 1.0, torch.Generator().manual_seed(3))
        for rows in (semantic, torch.cat((semantic[:5], semantic[:1] + 1)))
    ]
    length = min(caption.shape[1] for caption in both)
    assert torch.equal(both[0][:5, :length], both[1][:5, :length])


def test_a_negative_temperature_is_refused(decoder):
    with pytest.raises(ValueError, match="temperature is 0 or more, not -1"):
        decoder.generate(torch.randn(1, 16), 4, -1.0)


def test_no_region_gives_no_caption(decoder):
    assert len(decoder.generate(torch.randn(0, 16), max_tokens=4)) == 0
