"""What people say of a region: the phrases of its annotation, or the name of its category."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from datamodules.shards.records import MAX_PHRASE_CHARACTERS

Wording: TypeAlias = Literal["own", "category"]
"""`StreamConfig.phrases`."""

_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")


class RegionPhrases(NamedTuple):
    """The usable phrases of some regions."""

    of_regions: list[tuple[str, ...]]
    """Of each region, in their order; empty where there are none."""
    dropped: int
    """Phrases that were left out: blank ones, and those beyond `MAX_PHRASE_CHARACTERS`."""


def read_phrases(regions: Iterable[Any], wording: Wording) -> RegionPhrases:
    """Read the phrases of regions, as `KEY.json` holds these.

    Args:
        regions: entries of `annotations`.
        wording: `category` gives a region without a usable phrase the name of its category.

    Raises:
        ValueError: if a region is no object, or its phrases are not a list of texts.
    """
    of_regions: list[tuple[str, ...]] = []
    dropped = 0
    for region in regions:
        stated = _stated(region)
        usable = usable_phrases(stated) if stated else ()
        dropped += len(stated) - len(usable)
        if not usable and wording == "category":
            usable = usable_phrases(_category(region))
        of_regions.append(usable)
    return RegionPhrases(of_regions, dropped)


def usable_phrases(phrases: Iterable[str]) -> tuple[str, ...]:
    """Phrases as one line each, without those that are blank or too long.

    Control characters and line ends become blanks, and neighbouring blanks one. Nothing else
    changes: case, script and emoji are the tokenizer's affair.
    """
    lines = map(_one_line, phrases)
    return tuple(line for line in lines if 0 < len(line) <= MAX_PHRASE_CHARACTERS)


def _one_line(phrase: str) -> str:
    # Most phrases hold nothing to replace, and the look at it costs a tenth.
    return " ".join((phrase if phrase.isprintable() else phrase.translate(_CONTROLS)).split())


def _stated(region: Any) -> list[str]:
    phrases = region.get("phrases", []) if isinstance(region, dict) else None
    if not (isinstance(phrases, list) and all(isinstance(each, str) for each in phrases)):
        raise ValueError(
            "the annotation is not in SA-1B's layout: phrases are not a list of texts, but"
            f" {str(phrases)[:100]!r}"
        )
    return phrases


def _category(region: dict[str, Any]) -> list[str]:
    """The name as people would say it, where lists of concepts write `alarm_clock`."""
    name = region.get("category")
    return [name.replace("_", " ")] if isinstance(name, str) else []
