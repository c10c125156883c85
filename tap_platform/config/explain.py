"""Validation errors for people: the dotted key, what is wrong, the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

TAGS = ("source", "type")
"""Fields that pick the kind of a section."""


def explain(error: ValidationError, root: type[BaseModel], where: str) -> str:
    """One line for each fault of a config read from `where`."""
    lines = [_line(fault, root) for fault in error.errors()]
    return "\n".join(f"{where}: {line}" for line in lines)


def _line(fault: ErrorDetails, root: type[BaseModel]) -> str:
    sections, path = _follow(root, fault["loc"])
    dotted = ".".join(path) or "the job"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {dotted!r}; {_nearest(path, sections, root)}"
    if fault["type"] == "missing":
        return f"{dotted!r} is missing"
    if fault["type"].startswith("union_tag"):
        return _kind_line(dotted, fault)
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message if not path else f"{dotted}: {message}"
    return f"{dotted}: {message[0].lower()}{message[1:]}, got {fault['input']!r}"


def _nearest(path: list[str], sections: list[type[BaseModel]], root: type[BaseModel]) -> str:
    """The same key elsewhere, else the nearest beside it or anywhere, else all beside it."""
    if kinds := _other_kinds(path, root):
        return f"it goes with {' or '.join(kinds)}"
    above = path[:-1]
    beside = {name: [*above, name] for section in sections for name in section.model_fields}
    anywhere = dict(_leaves(root))
    for known, likeness in ((anywhere, 1.0), (beside, 0.6), (anywhere, 0.6)):
        if close := difflib.get_close_matches(path[-1], known, n=1, cutoff=likeness):
            return f"did you mean {'.'.join(known[close[0]])!r}?"
    return f"known: {', '.join(sorted(beside))}"


def _other_kinds(path: list[str], root: type[BaseModel]) -> list[str]:
    """How to pick the kinds of this section that have the key: `data.source=coco`."""
    if len(path) != 2 or path[0] not in root.model_fields:
        return []
    return [
        f"{path[0]}.{name}={section.model_fields[name].default}"
        for section in _sections(root.model_fields[path[0]].annotation)
        if path[1] in section.model_fields
        for name in TAGS
        if name in section.model_fields
    ]


def _kind_line(dotted: str, fault: ErrorDetails) -> str:
    """A section that comes in several kinds names none of them, or one that is not there."""
    context = fault["ctx"]
    field = context["discriminator"].strip("'")
    key = f"{dotted}.{field}"
    if "tag" not in context:
        return f"{key!r} is missing: it picks the kind of {dotted!r}"
    return f"{key}: no kind {context['tag']!r}: choose one of {context['expected_tags']}"


def _follow(
    root: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[list[type[BaseModel]], list[str]]:
    """The sections that hold the last key of a location, and the keys that a person typed.

    Pydantic puts the tag of a union's member in the location; a person never typed it.
    """
    sections, keys = [root], []
    for place, part in enumerate(location):
        if len(sections) > 1:
            sections = [section for section in sections if _has_tag(section, part)]
            continue
        fields = [s.model_fields[part] for s in sections if part in s.model_fields]
        keys.append(str(part))
        if place < len(location) - 1 and fields:
            sections = [s for field in fields for s in _sections(field.annotation)]
    return sections, keys


def _has_tag(section: type[BaseModel], tag: int | str) -> bool:
    return any(field.default == tag for name, field in section.model_fields.items() if name in TAGS)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _leaves(root: type[BaseModel]) -> Iterator[tuple[str, list[str]]]:
    """Names two levels deep with their places, so that `lr` finds `optimizer.lr`."""
    for name, field in root.model_fields.items():
        for section in _sections(field.annotation):
            for leaf in section.model_fields:
                yield leaf, [name, leaf]
