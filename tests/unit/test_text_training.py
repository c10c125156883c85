from __future__ import annotations

from itertools import product

import pytest

from tap_platform.text import Tokenizer
from tap_platform.text.training import train_tokenizer

LOOKS = list(product(("small", "large"), ("red", "blue", "green"), ("star", "ring", "square")))
PHRASES = [f"a {size} {colour} {shape}" for size, colour, shape in LOOKS]
CHARACTERS = len(set("".join(PHRASES)) - {" "})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "tokenizer.model"
    train_tokenizer(iter(PHRASES), 64, out)
    return Tokenizer(out)


def test_it_has_the_pieces_asked_for_and_a_pad_that_no_text_contains(trained):
    assert trained.vocab_size == 64
    assert (trained.unk_id, trained.bos_id, trained.eos_id, trained.pad_id) == (0, 1, 2, 63)
    spoken = {piece for phrase in [*PHRASES, "<pad>", "q"] for piece in trained.encode(phrase)}
    assert not spoken & {1, 2, 63}


def test_phrases_come_back_in_fewer_pieces_than_letters(trained):
    for phrase in PHRASES:
        pieces = trained.encode(phrase)
        assert trained.decode(pieces) == phrase
        assert len(pieces) < len(phrase) / 2


def test_the_same_phrases_give_the_same_bytes_and_others_do_not(trained, tmp_path):
    again, other = tmp_path / "again.model", tmp_path / "other.model"
    train_tokenizer(PHRASES, 64, again)
    assert again.read_bytes() == trained.path.read_bytes()
    train_tokenizer([*PHRASES, "a striped moon"], 64, other)
    assert other.read_bytes() != trained.path.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"again.model", "other.model"}


def test_every_character_of_the_phrases_has_a_piece(tmp_path):
    out = tmp_path / "tokenizer.model"
    phrases = ["כלב חום", "قطة", "红色的狗", "a 😀 star", "x" * 10_000]
    train_tokenizer(phrases, 60, out)
    words = Tokenizer(out)
    for phrase in phrases:
        assert words.decode(words.encode(phrase)) == phrase


def test_too_few_words_are_told_with_the_number_that_can_be_had(tmp_path):
    out = tmp_path / "tokenizer.model"
    with pytest.raises(ValueError, match=r"\(18\) give 85 pieces at most, not 86"):
        train_tokenizer(PHRASES, 86, out)
    assert not out.exists()
    train_tokenizer(PHRASES, 85, out)
    assert Tokenizer(out).vocab_size == 85


def test_too_many_characters_are_told_with_the_number_they_need(tmp_path):
    least = CHARACTERS + 5
    with pytest.raises(ValueError, match=f"{CHARACTERS} characters need {least} pieces"):
        train_tokenizer(PHRASES, least - 1, tmp_path / "small.model")
    train_tokenizer(PHRASES, least, tmp_path / "small.model")


@pytest.mark.parametrize("phrases", [[], ["", "  "]])
def test_without_phrases_there_is_no_tokenizer(phrases, tmp_path):
    with pytest.raises(ValueError, match="there are no phrases"):
        train_tokenizer(phrases, 64, tmp_path / "tokenizer.model")
