"""Python's plain values as JSON, and back without a bit lost."""

from __future__ import annotations

import math
from typing import Any

TAG = "$"
"""Key of an object that stands for what JSON has no word for."""


def to_json(value: Any, where: str = "value") -> Any:
    """A value that JSON can hold and `from_json` gives back.

    Tuples become lists. Floats keep every bit, infinities and NaN too; keys keep their type.

    Args:
        value: of None, booleans, integers, floats, strings, lists, tuples and dictionaries.
        where: what it is called, for the error.

    Raises:
        AssertionError: if there is anything else in it; the message says where.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {TAG: "float", "is": repr(float(value))}
    if isinstance(value, list | tuple):
        return [to_json(each, f"{where}[{place}]") for place, each in enumerate(value)]
    assert isinstance(value, dict), f"a checkpoint cannot hold {where}: it is a {type(value)}"
    inner = {key: to_json(each, f"{where}[{key!r}]") for key, each in value.items()}
    if all(isinstance(key, str) for key in inner) and TAG not in inner:
        return inner
    return {TAG: "pairs", "are": [[to_json(k, f"{where}: a key"), v] for k, v in inner.items()]}


def from_json(value: Any) -> Any:
    """The value that `to_json` was given."""
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get(TAG) == "float":
        return float(value["is"])
    if value.get(TAG) == "pairs":
        return {key: from_json(each) for key, each in value["are"]}
    return {key: from_json(each) for key, each in value.items()}
