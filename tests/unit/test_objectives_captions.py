from __future__ import annotations

import math

import pytest
import torch

from tap_platform.objectives import draws
from tap_platform.objectives.captions import caption_loss, draw_phrases

BEGIN, END, PAD, PIECES = 1, 2, 9, 10
TOKENS = torch.tensor(
    [
        [BEGIN, 4, 5, 6, END],
        [BEGIN, 7, END, PAD, PAD],
        [BEGIN, END, PAD, PAD, PAD],
        [PAD, PAD, PAD, PAD, PAD],
    ]
)
LENGTHS = [4, 2, 1, 0]


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(4, 4, PIECES, generator=draw)).requires_grad_()


def plain_loss(logits, targets, smoothing):
    """Of one row, word by word."""
    losses = []
    for scores, target in zip(logits.tolist(), targets.tolist(), strict=True):
        norm = math.log(sum(math.exp(score) for score in scores))
        wanted = [smoothing / PIECES] * PIECES
        wanted[target] += 1 - smoothing
        losses.append(sum(w * (norm - s) for w, s in zip(wanted, scores, strict=True)))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_words_and_the_end(logits, smoothing):
    losses = caption_loss(logits, TOKENS, PAD, smoothing)
    assert losses.dtype == torch.float32
    for row, length in enumerate(LENGTHS):
        targets = TOKENS[row, 1 : 1 + length]
        expected = plain_loss(logits[row, :length], targets, smoothing)
        assert losses[row].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_what_predicts_pads_gets_no_gradient(logits, smoothing):
    caption_loss(logits, TOKENS, PAD, smoothing).sum().backward()
    for row, length in enumerate(LENGTHS):
        reached = logits.grad[row].abs().sum(1) > 0
        assert reached.tolist() == [place < length for place in range(4)]


def test_the_last_piece_is_a_word_before_the_end(logits):
    tokens = TOKENS.clone()
    tokens[1] = torch.tensor([BEGIN, PAD, PAD, END, PAD])
    loss = caption_loss(logits, tokens, PAD)[1]
    assert loss.item() == pytest.approx(plain_loss(logits[1, :3], tokens[1, 1:4], 0), rel=1e-5)


def test_a_caption_costs_the_same_in_a_longer_batch(logits):
    longer = torch.cat([TOKENS, torch.full((4, 3), PAD)], 1)
    padded = torch.cat([logits, torch.randn(4, 3, PIECES)], 1)
    torch.testing.assert_close(caption_loss(padded, longer, PAD), caption_loss(logits, TOKENS, PAD))


def test_half_precision_costs_are_float32(logits):
    losses = caption_loss(logits.bfloat16(), TOKENS, PAD)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, caption_loss(logits, TOKENS, PAD), rtol=0.02, atol=0.02)


def test_every_phrase_is_drawn_equally_often():
    drawn = draw_phrases([("a", "b", "c")] * 9000, torch.arange(9000))
    counts = [drawn.count(phrase) for phrase in "abc"]
    assert sum((count - 3000) ** 2 / 3000 for count in counts) < 14  # 2 degrees, p = 0.001


def test_a_region_draws_by_its_own_seed():
    phrases = [("a", "b", "c", "d"), (), ("e",), ("f", "g", "h")] * 10
    seeds = torch.arange(40) * 7919
    drawn = draw_phrases(phrases, seeds)
    assert drawn[1::4] == [""] * 10
    assert drawn[2::4] == ["e"] * 10
    alone = [draw_phrases(phrases[i : i + 1], seeds[i : i + 1])[0] for i in range(40)]
    assert drawn == alone


def test_phrases_do_not_follow_the_draws_of_prompts():
    seeds = torch.arange(2000)
    second = torch.tensor([each == "b" for each in draw_phrases([("a", "b")] * 2000, seeds)])
    for stream in range(8):
        alike = (draws.uniform(seeds, 1, stream)[:, 0] >= 0.5) == second
        assert 0.45 < alike.float().mean() < 0.55
