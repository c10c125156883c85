"""Concept vocabularies: names, their embeddings, and the oracle space that stands in for CLIP."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from datamodules.storage import Location, location, read_bytes, write_bytes

TEMPERATURE = "temperature"
"""Where the provenance tells what cosines with the embeddings are divided by."""
SHIPPED_LISTS = Path(__file__).parent / "vocabularies"


@dataclass(frozen=True)
class Vocabulary:
    """The concepts that a run can name, in a fixed order.

    Attributes:
        names: Concept names; a concept's index is its place here.
        embeddings: `[V, D]` float32 unit rows, in the order of the names.
        kind: Where the embeddings come from, for example `scenes oracle` or `category_names`.
        provenance: How they were made, as far as that is more than the kind tells: short texts.
    """

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    kind: str
    provenance: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def indexes(self) -> dict[str, int]:
        """The index of every name."""
        return {name: index for index, name in enumerate(self.names)}

    @property
    def temperature(self) -> float:
        """What cosines with the embeddings are divided by; CLIP's 0.01 if nothing else is told."""
        return float(self.provenance.get(TEMPERATURE, 0.01))

    @classmethod
    def from_names(cls, names: Sequence[str], dim: int, kind: str) -> Vocabulary:
        """A vocabulary in the oracle space of `name_embedding`."""
        return cls(tuple(names), name_embeddings(names, dim), kind)

    def save(self, path: str | Location) -> None:
        """Write a safetensors file: tensor `embeddings`, metadata `names` (JSON), `kind`, and more.

        Equal vocabularies give equal bytes; the library's own writer shuffles the metadata.
        """
        data = np.ascontiguousarray(self.embeddings, "<f4").tobytes()
        tensor = {
            "dtype": "F32",
            "shape": self.embeddings.shape,
            "data_offsets": [0, len(data)],
        }
        metadata = {"names": json.dumps(self.names), "kind": self.kind} | dict(
            sorted(self.provenance.items())
        )
        header = json.dumps({"__metadata__": metadata, "embeddings": tensor}).encode()
        header += b" " * (-len(header) % 8)
        write_bytes(location(path), len(header).to_bytes(8, "little") + header + data)

    @classmethod
    def load(cls, path: str | Location) -> Vocabulary:
        """Read what `save` wrote, from a path or URL.

        Raises:
            ValueError: The file is missing, is no safetensors file, or holds no vocabulary.
        """
        try:
            data = read_bytes(location(path))
            embeddings = load_tensors(data)["embeddings"]
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            metadata = dict(header["__metadata__"])
            names = tuple(orjson.loads(metadata.pop("names")))
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} holds no vocabulary ({error}). Expected a safetensors file with the "
                "tensor `embeddings` and the metadata `names`; make the data set anew to write "
                "one, or name another file (the key `vocabulary`)."
            ) from error
        if not names:
            raise ValueError(f"{path} names no concept: a vocabulary holds one at least.")
        if embeddings.ndim != 2 or len(embeddings) != len(names):
            raise ValueError(
                f"{path}: {len(names)} names, but embeddings of shape {embeddings.shape}; "
                "each name needs one row."
            )
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError(f"{path}: each name must be text, and stand there once.")
        if not np.isfinite(embeddings).all():
            raise ValueError(f"{path}: the embeddings hold NaN or infinity.")
        kind = metadata.pop("kind", "unknown")
        return cls(names, embeddings.astype(np.float32), kind, metadata)


def join_vocabularies(vocabularies: Mapping[str, Vocabulary]) -> Vocabulary:
    """All names of several vocabularies, in order; what all of them tell of themselves is kept.

    Args:
        vocabularies: each by what people call its data set; at least one.

    Raises:
        ValueError: The embeddings differ in width, or two of them differ for the same name.
    """
    first, *_ = vocabularies
    width = vocabularies[first].embeddings.shape[1]
    united: dict[str, tuple[str, NDArray[np.float32]]] = {}
    for owner, vocabulary in vocabularies.items():
        if (other := vocabulary.embeddings.shape[1]) != width:
            raise ValueError(_no_union(first, owner, f"widths {width} and {other}"))
        for name, row in zip(vocabulary.names, vocabulary.embeddings, strict=True):
            owner_before, known = united.setdefault(name, (owner, row))
            if not np.array_equal(known, row):
                difference = f"different embeddings of {name!r}"
                raise ValueError(_no_union(owner_before, owner, difference))
    kinds = dict.fromkeys(each.kind for each in vocabularies.values())
    told = [each.provenance.items() for each in vocabularies.values()]
    return Vocabulary(
        tuple(united),
        np.stack([row for _, row in united.values()]),
        " + ".join(kinds),
        dict(sorted(set(told[0]).intersection(*told[1:]))),
    )


def _no_union(one: str, other: str, difference: str) -> str:
    return (
        f"The concepts of {one} and {other} cannot be united, they have {difference}. Embed both "
        "with one teacher, or give both sets one file (the key `vocabulary` of each)."
    )


def name_embedding(name: str, dim: int) -> NDArray[np.float32]:
    """The oracle embedding of a name: `[dim]` float32, a unit vector. See `name_embeddings`."""
    return name_embeddings([name], dim)[0]


def name_embeddings(names: Sequence[str], dim: int) -> NDArray[np.float32]:
    """The oracle embedding space: names that share words lie near each other.

    Every word is a unit vector of a Gaussian direction whose bits are a hash of the word; a name is
    the normalised sum of its words. Two names with one of two words in common have a cosine near
    0.5, unrelated names near 0 (with a spread of about `1 / sqrt(dim)`). The space needs no
    teacher's weights, no network and no state; it knows spelling, not looks: `cat` and `kitten`
    are unrelated.

    Args:
        names: Names; case and punctuation do not matter.
        dim: Width of the space.

    Returns:
        `[len(names), dim]` float32 unit rows.

    Raises:
        ValueError: A name has no letter or digit.
    """
    words_of = [_words(name) for name in names]
    vocabulary = sorted({word for words in words_of for word in words})
    vectors = {word: _word_vector(word, dim) for word in vocabulary}
    sums = np.array([np.sum([vectors[word] for word in words], axis=0) for words in words_of])
    rows = sums.reshape(len(names), dim)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def concept_list(name_or_path: str | Path) -> tuple[str, ...]:
    """The names of a concept list: one that ships with the platform, or a text file's lines.

    Raises:
        ValueError: No such list, an empty list, or a name that stands there twice.
    """
    shipped = SHIPPED_LISTS / f"{name_or_path}.txt"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.is_file():
        raise ValueError(_unknown_list(str(name_or_path)))
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    if not names:
        raise ValueError(f"The concept list {path} is empty; write one name a line.")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"The concept list {path} holds {twice} more than once.")
    return tuple(names)


def _words(name: str) -> list[str]:
    words = re.findall(r"\w+", name.lower())
    if not words:
        raise ValueError(f"The name {name!r} has no word to embed; it needs a letter or a digit.")
    return words


def _word_vector(word: str, dim: int) -> NDArray[np.float64]:
    """A Gaussian direction by Box-Muller from SHAKE-256 bits, the same under every numpy."""
    bits = np.frombuffer(hashlib.shake_256(word.encode()).digest(16 * dim), dtype="<u8")
    radius, angle = ((bits >> np.uint64(11)) + 0.5).reshape(2, dim) * 2.0**-53
    vector = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    return vector / np.linalg.norm(vector)


def _unknown_list(name: str) -> str:
    shipped = sorted(path.stem for path in SHIPPED_LISTS.glob("*.txt"))
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return (
        f"No concept list {name!r}: neither a list that ships with the platform "
        f"({', '.join(shipped)}) nor a text file.{hint}"
    )
