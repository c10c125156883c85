"""A tokenizer made from the phrases at hand, for small models and small worlds.

Byte pairs by SentencePiece, as the paper's tokenizer has them (TAP, section 3.4).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceNormalizer, SentencePieceProcessor, SentencePieceTrainer

RULE = "nmt_nfkc"
"""How texts are evened out before they are split: compatible characters become one, runs of blanks
too, and controls go."""
RESERVED = 5
"""Pieces that no phrase gives: unknown, begin, end, the blank and the pad."""
BLANK = "\u2581"
"""How SentencePiece writes the beginning of a word."""
_ANY_LENGTH = 2**30
_QUIET = 2


def train_tokenizer(phrases: Iterable[str], pieces: int, out: Path) -> None:
    """Make a SentencePiece model of byte pairs and write it; the same phrases give the same bytes.

    Unknown is 0, begin 1, end 2. The last piece is the pad, which no text contains, so that a pad
    is never mistaken for a word. Every character of the phrases has a piece; others are unknown.

    Args:
        phrases: what people say, one region each; they are held in memory.
        pieces: how many there are to be, exactly.
        out: the file to write; it appears when it is complete.

    Raises:
        ValueError: if there is no phrase, or the phrases have more characters than `pieces`, or
            give fewer pieces; the message says how many can be had.
    """
    known = [phrase for phrase in phrases if phrase.strip()]
    if not known:
        raise ValueError(
            "there are no phrases to make a tokenizer from: the training data describe no region"
        )
    try:
        model = _train(known, pieces, pad_id=pieces - 1)
    except RuntimeError as error:
        raise ValueError(_what_can_be_had(known, pieces)) from error
    partial = out.with_name(f".{out.name}.partial")
    partial.write_bytes(model)
    partial.replace(out)


def _train(phrases: Sequence[str], pieces: int, **settings: Any) -> bytes:
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(phrases),
        model_writer=written,
        model_type="bpe",
        vocab_size=pieces,
        character_coverage=1.0,
        normalization_rule_name=RULE,
        max_sentence_length=_ANY_LENGTH,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=_QUIET,
        **settings,
    )
    return written.getvalue()


def _what_can_be_had(phrases: Sequence[str], pieces: int) -> str:
    normalizer = SentencePieceNormalizer(rule_name=RULE)
    characters = {each for phrase in phrases for each in normalizer.normalize(phrase)} - {BLANK}
    least = len(characters) + RESERVED
    if pieces < least:
        return (
            f"a tokenizer of {pieces} pieces is too small for these phrases: their"
            f" {len(characters)} characters need {least} pieces; make model.vocab_size at least"
            " that, or take the tokenizer that is shipped"
        )
    model = _train(phrases, pieces, pad_id=-1, hard_vocab_limit=False)
    most = SentencePieceProcessor(model_proto=model).vocab_size() + 1
    return (
        f"the words of the training phrases ({len(phrases)}) give {most} pieces at most, not"
        f" {pieces}: make model.vocab_size {most} or less, or take the tokenizer that is shipped"
    )
