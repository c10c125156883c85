"""In what the configs of columns differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tap_platform.compare.runs import Column, ComparedRun
from tap_platform.runs.tracking.base import as_text

ABSENT = "-"
_LONGEST = 120


class Difference(NamedTuple):
    """A setting that is not the same in all runs."""

    key: str
    values: list[str]
    """Of each column, as people write it; of runs that differ in their seeds, all of them."""


def differences(columns: Sequence[Column]) -> list[Difference]:
    """The settings that differ, in the order of the first run's config; others after them."""
    runs = [run for column in columns for run in column.runs]
    found = []
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        first = runs[0].settings.get(key)
        if any(key not in run.settings or run.settings[key] != first for run in runs):
            told = [dict.fromkeys(_shown(key, run) for run in column.runs) for column in columns]
            found.append(Difference(key, [", ".join(values) for values in told]))
    return found


def _shown(key: str, run: ComparedRun) -> str:
    if key not in run.settings:
        return ABSENT
    value = run.settings[key]
    text = "none" if value is None else as_text(value)
    if key in ("code", "data"):
        return text[:12]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
