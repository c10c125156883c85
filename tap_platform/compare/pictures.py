"""The same pictures of several runs, side by side."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tap_platform.compare.runs import ComparedRun

WIDEST = 1000
"""Pixels of a picture on the page."""
_QUALITY = 80
_STEP = re.compile(r"-step-(\d+)$")


class Shown(NamedTuple):
    """A picture of one run."""

    step: int | None
    """None for one of the whole run."""
    content: bytes
    """WebP."""


class PictureRow(NamedTuple):
    """A picture of every run; None where a run has none, or it cannot be read."""

    name: str
    pictures: list[Shown | None]


def picture_rows(runs: Sequence[ComparedRun]) -> list[PictureRow]:
    """The pictures that two runs or more have, each of its newest step."""
    newest = [_newest(run.records.run.pictures) for run in runs]
    names = sorted({name for own in newest for name in own})
    common = [name for name in names if sum(name in own for own in newest) > 1]
    return [PictureRow(name, [_shown(own.get(name)) for own in newest]) for name in common]


def _newest(folder: Path) -> dict[str, tuple[int | None, Path]]:
    found: dict[str, tuple[int | None, Path]] = {}
    for path in sorted(folder.glob("*.png")):
        match = _STEP.search(path.stem)
        step = int(match[1]) if match else None
        name = _STEP.sub("", path.stem)
        before = found.get(name)
        if before is None or (step or 0) >= (before[0] or 0):
            found[name] = step, path
    return found


def _shown(found: tuple[int | None, Path] | None) -> Shown | None:
    if found is None:
        return None
    step, path = found
    encoded = io.BytesIO()
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError):
        return None
    picture.thumbnail((WIDEST, 4 * WIDEST))
    picture.save(encoded, "webp", quality=_QUALITY)
    return Shown(step, encoded.getvalue())
