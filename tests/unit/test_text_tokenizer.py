from __future__ import annotations

import pytest

from tap_platform.config.model import TapConfig
from tap_platform.text import Tokenizer, tokenizer


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
