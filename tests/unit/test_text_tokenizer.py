from __future__ import annotations

import numpy as np
import pytest

from tap_platform.config.model import TapConfig
from tap_platform.text import Tokenizer, tokenizer
from tap_platform.text.training import train_tokenizer


@pytest.fixture(scope="module")
def words():
    return Tokenizer()


def test_the_shipped_tokenizer_has_the_released_models_sizes(words):
    assert (words.vocab_size, words.bos_id, words.eos_id, words.pad_id) == (32000, 1, 2, 31999)
    assert not words.is_released
    words.check_fits(TapConfig())


def test_text_comes_back(words):
    pieces = words.encode("a brown dog, lying on grass")
    assert not {words.bos_id, words.eos_id} & set(pieces)
    assert words.decode(pieces) == "a brown dog, lying on grass"


def test_nothing_is_read_after_the_end(words):
    pieces = words.encode("a dog")
    after = words.encode("and junk")
    assert words.decode([1, *pieces, 2, *after, words.pad_id]) == "a dog"
    assert words.decode([2]) == ""
    assert words.decode([]) == ""


def test_the_released_models_tokenizer_is_known_by_its_bytes(monkeypatch, words):
    import hashlib

    digest = hashlib.sha256(words.path.read_bytes()).hexdigest()
    monkeypatch.setattr(tokenizer, "RELEASED_SHA256_ENDS", (digest[:8], digest[-4:]))
    assert Tokenizer().is_released


def test_mistakes_are_told_in_words(tmp_path, words):
    with pytest.raises(ValueError, match=r"nowhere.model cannot be read: No such file"):
        Tokenizer(tmp_path / "nowhere.model")
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(ValueError, match=r"text.model is no SentencePiece model"):
        Tokenizer(tmp_path / "text.model")
    with pytest.raises(ValueError, match="32000 is no piece"):
        words.decode([32000])
    with pytest.raises(ValueError, match="has 32000 pieces, the model's text decoder 1024"):
        words.check_fits(TapConfig.preset("tiny"))


ODD = [
    "a 😀 face",
    "a כלב beside a قطة",
    "红色的狗",
    "two\nlines",
    "  a  b ",
    "<s> </s> <unk> <pad>",
    "a" * 10_000,
    "\u200b\x00",
]
BLANK = ["", " ", "\n"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tokenizer of few phrases, which has no piece for what they do not say."""
    out = tmp_path_factory.mktemp("small") / "tokenizer.model"
    train_tokenizer(["a red star", "a blue ring", "a red ring"], 32, out)
    return Tokenizer(out)


@pytest.mark.parametrize("text", ODD)
def test_the_shipped_tokenizer_spells_whatever_people_write(words, text):
    pieces = words.encode(text)
    assert words.unk_id not in pieces
    assert words.decode(pieces) == text


def test_captions_become_rows_of_the_longest_ones_length(words):
    texts = ["a dog", "a brown dog, lying on grass"]
    ids, usable = words.encode_captions(texts, 39)
    own = [words.encode(text) for text in texts]
    assert ids.dtype == np.int64
    assert ids.shape == (2, len(own[1]) + 2)
    assert ids[1].tolist() == [1, *own[1], 2]
    after = len(own[0]) + 2
    assert ids[0, :after].tolist() == [1, *own[0], 2]
    assert (ids[0, after:] == words.pad_id).all()
    assert usable.tolist() == [True, True]
    assert [words.decode(row) for row in ids] == texts


def test_a_caption_that_is_too_long_is_cut_and_ends(words):
    ids, usable = words.encode_captions(["a dog", "dog " * 2500], 39)
    assert ids.shape == (2, 39)
    assert ids[1, 0] == 1
    assert ids[1, -1] == 2
    assert words.decode(ids[1]) == " ".join(["dog"] * 37)
    assert usable.all()


@pytest.mark.parametrize("name", ["words", "small"])
def test_any_text_becomes_a_row_that_begins_and_ends(name, request):
    tokenizer = request.getfixturevalue(name)
    ids, usable = tokenizer.encode_captions([*ODD, *BLANK], 39)
    assert ids.shape[0] == len(ODD) + len(BLANK)
    assert ids.shape[1] <= 39
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    assert (ids[:, 0] == 1).all()
    assert ((ids == 2).sum(1) == 1).all()
    assert not usable[len(ODD) :].any()
    for row in ids:
        tokenizer.decode(row)


def test_a_text_of_unknown_pieces_only_is_of_no_use(small):
    ids, usable = small.encode_captions(["狗", "狗 a ring", "😀 😀", "A RED"], 39)
    assert (ids == small.unk_id).any(1).all()
    assert usable.tolist() == [False, True, False, False]


def test_blank_captions_and_none_at_all_have_rows_without_words(words):
    ids, usable = words.encode_captions(BLANK[:1], 39)
    assert ids.tolist() == [[1, 2]]
    assert usable.tolist() == [False]
    none, usable = words.encode_captions([], 39)
    assert none.shape == (0, 2)
    assert usable.shape == (0,)
