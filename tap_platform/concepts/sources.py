"""Which names there are, and how they are said.

Source: Tokenize Anything via Prompting, algorithm 1, as its authors' notebook carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datamodules.vocabulary import concept_list

MERGED = "merged_2560"
SOURCES = {
    "coco_80": False,
    "lvis_1203": True,
    "ade20k": False,
    "objects365": True,
    "openimages_v4_boxable": True,
    "visual_genome_1600": False,
}
"""The lists that TAP's is merged from; whether `_` and `-` stand for spaces in them."""


@dataclass(frozen=True)
class Concepts:
    """A list of concepts, in a fixed order."""

    source: str
    """A list that ships with the platform, or the file that it was read from."""
    names: tuple[str, ...]
    """As data sets write them, in the order of their categories."""
    texts: tuple[str, ...]
    """The same as they are said: what a text encoder is given."""


def find_concepts(name_or_path: str | Path) -> Concepts:
    """A list of concepts by its name, or from a text file with one name a line.

    Args:
        name_or_path: `merged_2560` (TAP's own list, sorted), one of `SOURCES` (`coco_80` and
            `lvis_1203` have the order of the data sets' categories), or a file.

    Raises:
        ValueError: if there is no such list or file, it is empty, or a name stands in it twice.
    """
    source = str(name_or_path)
    if source == MERGED:
        merged = merged_concepts()
        return Concepts(source, merged, merged)
    names = concept_list(name_or_path)
    texts = names
    if source in SOURCES:
        texts = tuple(_said(name, joined=SOURCES[source]) for name in names)
    return Concepts(source, names, texts)


def merged_concepts() -> tuple[str, ...]:
    """TAP's 2560 concepts: all names of the six lists without plurals of each other, sorted."""
    every = {
        _said(name, joined) for source, joined in SOURCES.items() for name in concept_list(source)
    }
    plurals = {name + ending for name in every for ending in ("s", "es")}
    return tuple(sorted(every - plurals))


def _said(name: str, joined: bool) -> str:
    """A name in lower case; if its words are joined by signs, with spaces between them."""
    name = name.lower()
    return name.replace("_", " ").replace("-", " ") if joined else name
