"""Validation errors for people: the dotted key, what is wrong, the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def explain(error: ValidationError, root: type[BaseModel], where: str) -> str:
    """One line for each fault of a config read from `where`."""
    lines = [_line(fault, root) for fault in error.errors()]
    return "\n".join(f"{where}: {line}" for line in lines)


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean …?` with the nearest known name, or the list of all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _line(fault: ErrorDetails, root: type[BaseModel]) -> str:
    sections, path = _follow(root, fault["loc"])
    dotted = ".".join(path) or "the job"
    if fault["type"] == "extra_forbidden":
        known = sorted({name for section in sections for name in section.model_fields})
        if len(path) == 1 and path[0] not in known:
            known = sorted({*known, *_leaves(root)})
        return f"unknown key {dotted!r}{nearest(path[-1], known)}"
    if fault["type"] == "missing":
        return f"{dotted!r} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message if not path else f"{dotted}: {message}"
    return f"{dotted}: {message[0].lower()}{message[1:]}, got {fault['input']!r}"


def _follow(
    root: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[list[type[BaseModel]], list[str]]:
    """The sections that hold the last key of a location, and the keys that a person typed.

    Pydantic puts the tag of a union's member in the location; a person never typed it.
    """
    sections, keys = [root], []
    for place, part in enumerate(location):
        fields = [s.model_fields[part] for s in sections if part in s.model_fields]
        tag = len(sections) > 1 and not fields and place < len(location) - 1
        if tag:
            sections = [s for s in sections if _has_tag(s, part)] or sections
            continue
        keys.append(str(part))
        if place < len(location) - 1 and fields:
            sections = [s for field in fields for s in _sections(field.annotation)]
    return sections, keys


def _has_tag(section: type[BaseModel], tag: int | str) -> bool:
    return any(
        field.default == tag
        for name, field in section.model_fields.items()
        if name in ("source", "type")
    )


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _leaves(root: type[BaseModel]) -> Iterator[str]:
    """Dotted names two levels deep, so that `lr` finds `optimizer.lr`."""
    for name, field in root.model_fields.items():
        for section in _sections(field.annotation):
            for leaf in section.model_fields:
                yield f"{name}.{leaf}"
