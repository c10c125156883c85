"""Captions as word pieces: a SentencePiece model of byte pairs.

The released models were trained with LLaMA's `tokenizer.model`, under Meta's licence; it does not
ship with the platform. What ships (in the package mistral-common, Apache-2.0) has as many pieces,
and other ones: it suits models trained here, and turns captions of the released models into noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from tap_platform.config.model import TapConfig

RELEASED_SHA256_ENDS = ("9e556afd", "d347")
"""How the SHA-256 of LLaMA's `tokenizer.model` begins and ends."""
BEGIN, END = 1, 2
"""What the text decoder takes for begin and end."""


class Tokenizer:
    """Turns text into word pieces and back.

    Attributes:
        path: the SentencePiece model.
        vocab_size: how many pieces it has.
        unk_id: stands for what the pieces cannot spell; the shipped ones spell everything, the rest
            by its bytes.
        bos_id: begins a text.
        eos_id: ends a text.
        pad_id: fills what follows the end; the last piece, as in the released models. There it is
            also a piece of rare texts, so that only its place after the end makes it a pad.
        is_released: whether it is the one that the released models were trained with.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """Read a SentencePiece model.

        Args:
            path: its file; left out, the model of 32,000 pieces that ships with mistral-common.

        Raises:
            ValueError: if the file is missing or is no SentencePiece model with begin and end.
        """
        self.path = shipped_model() if path is None else Path(path)
        data = _read(self.path)
        self._pieces = SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(data)
        except RuntimeError as error:
            raise ValueError(
                f"{self.path} is no SentencePiece model; give a tokenizer.model"
            ) from error
        self.vocab_size: int = self._pieces.vocab_size()
        self.unk_id: int = self._pieces.unk_id()
        self.bos_id: int = self._pieces.bos_id()
        self.eos_id: int = self._pieces.eos_id()
        self.pad_id = self.vocab_size - 1
        if min(self.bos_id, self.eos_id) < 0:
            raise ValueError(f"{self.path} has no pieces that begin and end a text")
        first, last = RELEASED_SHA256_ENDS
        digest = hashlib.sha256(data).hexdigest()
        self.is_released = digest.startswith(first) and digest.endswith(last)

    def encode(self, text: str) -> list[int]:
        """The pieces of a text, without begin and end."""
        pieces: list[int] = self._pieces.encode(text)
        return pieces

    def encode_captions(
        self, texts: Sequence[str], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Texts as the rows that a text decoder learns from.

        A text that is too long loses its last pieces, as with the released tokenizer.

        Args:
            texts: N captions; one may be blank.
            length: the most ids of a row, begin and end included, at least 2.

        Returns:
            Ids, int64 [N, T + 1], T + 1 <= `length`: begin, pieces, end, then pads up to the
            longest row. And bool [N], whether a row says anything: it has a piece that is neither
            unknown nor blank.
        """
        pieces = [self.encode(text)[: length - 2] for text in texts]
        longest = max(map(len, pieces), default=0)
        ids = np.full((len(texts), longest + 2), self.pad_id, np.int64)
        for row, own in zip(ids, pieces, strict=True):
            row[: len(own) + 2] = [self.bos_id, *own, self.eos_id]
        return ids, np.array([self._says_anything(own) for own in pieces], bool)

    def _says_anything(self, pieces: Sequence[int]) -> bool:
        known = [piece for piece in pieces if piece != self.unk_id]
        return bool(self._pieces.decode(known).strip())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of pieces up to the first end; begin is left out.

        Raises:
            ValueError: if an id is that of no piece.
        """
        kept: list[int] = []
        for piece in map(int, ids):
            if piece == self.eos_id:
                break
            if not 0 <= piece < self.vocab_size:
                raise ValueError(f"{piece} is no piece: {self.path} has {self.vocab_size}")
            if piece != self.bos_id:
                kept.append(piece)
        text: str = self._pieces.decode(kept)
        return text

    def check_fits(self, config: TapConfig) -> None:
        """See that a model speaks this tokenizer's pieces.

        Raises:
            ValueError: if the model has another number of pieces, or other ids begin and end.
        """
        if self.vocab_size != config.vocab_size:
            raise ValueError(
                f"the tokenizer {self.path.name} has {self.vocab_size} pieces, the model's text "
                f"decoder {config.vocab_size}: give the tokenizer that the model was trained with"
            )
        if (self.bos_id, self.eos_id) != (BEGIN, END):
            raise ValueError(
                f"{self.path.name} begins texts with {self.bos_id} and ends them with "
                f"{self.eos_id}, the model with {BEGIN} and {END}: "
                "give the tokenizer that the model was trained with"
            )


def shipped_model() -> Path:
    """The SentencePiece model that comes with the package mistral-common.

    Raises:
        ValueError: if the package is not installed.
    """
    package = find_spec("mistral_common")
    if package is None or not package.submodule_search_locations:
        raise ValueError("mistral-common is not installed: install it, or give a tokenizer.model")
    return Path(package.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"the tokenizer {path} cannot be read: {error.strerror}") from error
