"""A job's settings for people: each with its unit and its meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from tap_platform.config.load import validate_job
from tap_platform.runs.tracking.base import as_text, flatten

_NAMED_SO = re.compile(r"_(seconds|minutes|hours|steps|pixels|megabytes|trials)$")
_TOLD_IN = re.compile(r"\bin (pixels|patches|seconds|minutes|hours)\b")
_BEGINS_SO = re.compile(
    r"^(?:Optimizer |Newest |Largest )?(Seconds|Minutes|Hours|Steps|Images|Samples|Regions|Pixels"
    r"|Scenes|Points|CPUs|Blocks|Positions|Share)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(.+?[.:;])(?:\s|$)", re.DOTALL)
_LONGEST = 200


class Setting(NamedTuple):
    """One setting."""

    key: str
    """Dotted."""
    value: Any
    """As JSON has it."""
    unit: str
    """What a number counts; empty for what has no unit, or is no number."""
    meaning: str
    """The first sentence of its help; empty if it has none."""


def settings_of(tree: Mapping[str, Any]) -> list[Setting]:
    """The settings of a job's `config.json`; without units and meanings if it is no valid job."""
    helps = _helps(tree)
    return [
        Setting(key, value, unit_of(key, value, helps.get(key, "")), _first(helps.get(key, "")))
        for key, value in flatten(tree)
    ]


def settings_text(settings: list[Setting]) -> str:
    """The settings as a table in Markdown."""
    lines = ["| setting | value | | what it is |", "|---|---:|---|---|"]
    lines += [
        f"| {each.key} | {_cell(as_text(each.value))} | {each.unit} | {_cell(each.meaning)} |"
        for each in settings
    ]
    return "\n".join(lines) + "\n"


def unit_of(key: str, value: Any, meaning: str) -> str:
    """What the number of a setting counts, by its name or its help; empty for what is no number.

    Args:
        key: Its dotted name.
        value: Its value.
        meaning: Its help.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    for pattern, text in ((_NAMED_SO, key), (_TOLD_IN, meaning), (_BEGINS_SO, meaning)):
        if found := pattern.search(text):
            unit = found[1] if found[1] == "CPUs" else found[1].lower()
            return "of 1" if unit == "share" else unit
    return ""


def _helps(tree: Mapping[str, Any]) -> dict[str, str]:
    try:
        return dict(_help_of(validate_job(tree, "the job")))
    except ValueError:
        return {}


def _help_of(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _help_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", " ".join((field.description or "").split())


def _first(text: str) -> str:
    found = _SENTENCE.match(text)
    told = found[1].rstrip(":;") if found else text
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}…"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
