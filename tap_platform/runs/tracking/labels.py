"""The labels of a run: whose it is, what code and data it is of, which trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.provenance import tags_of
from tap_platform.runs.tracking.base import DataSet
from tap_platform.runs.tracking.shown import link_of

COST_CENTRES = ("cost_centre", "cost-centre", "cost_center", "cost-center")
"""Spellings of one label."""


def labels_of(
    run: RunDirectory, made_of: Mapping[str, Any], own: Mapping[str, str]
) -> dict[str, str]:
    """All labels of a run but those that its job gives it, `own`, which come first.

    Args:
        run: The run.
        made_of: Its `provenance.json`.
        own: The tags of its job.
    """
    labels = tags_of(made_of) if made_of else {}
    if owner := made_of.get("owner"):
        labels["owner"] = str(owner)
    link = link_of(run)
    labels |= {key: str(link[key]) for key in ("sweep", "trial") if key in link}
    if found := [own[key] for key in COST_CENTRES if key in own]:
        labels["cost_centre"] = found[0]
    return {key: text for key, text in labels.items() if key not in own}


def data_of(made_of: Mapping[str, Any]) -> list[DataSet]:
    """What a run learned from, by its `provenance.json`."""
    return [
        DataSet(PurePosixPath(source.rstrip("/")).name or source, source, sha256)
        for source, sha256 in (made_of.get("data") or {}).items()
    ]
