"""Files of one run that pages show, from its folder or from a mirror."""

from __future__ import annotations

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datamodules.storage import Location, list_files, read_bytes, version_of
from tap_platform.dashboard.collect import ListedRun
from tap_platform.runs.mirror import mirror_place, read_index

WIDEST = 1000
"""Pixels of a picture on a page."""
MOST_STEPS = 24
"""Of one picture that are shown: the first, the last, and some between."""
REPORT = "report/index.html"
_FOLDER = "pictures"
_PICTURE = re.compile(r"(?P<name>.+?)(?:-step-(?P<step>\d+))?\.(?:png|jpg|jpeg|webp)")
_LARGEST_PIXELS = 100_000_000
_KINDS = ("PNG", "JPEG", "WEBP")
"""What pictures may be: others, as PostScript, are programs that would be run."""
_QUALITY = 80


class Picture(NamedTuple):
    """A picture of a run at one step."""

    file: str
    """In the run's folder of pictures."""
    name: str
    step: int | None
    """None for one of the whole run."""
    address: str
    """The name of its copy for the page, another one whenever the picture changes."""


class RunFiles(NamedTuple):
    """What there is of a run beside its records."""

    pictures: Mapping[str, Sequence[Picture]]
    """By name, each ascending by step."""
    has_report: bool
    """Whether it has a page of its own, which `tap report RUN` writes."""


def files_of(run: ListedRun) -> RunFiles:
    """What there is of a run; nothing where its folder has gone, or the store does not answer."""
    try:
        versions = _versions(run)
    except (OSError, ValueError):
        return RunFiles({}, has_report=False)
    groups: defaultdict[str, list[Picture]] = defaultdict(list)
    for path, version in versions.items():
        folder, _, file = path.rpartition("/")
        found = _PICTURE.fullmatch(file)
        if folder == _FOLDER and found:
            step = int(found["step"]) if found["step"] else None
            address = f"{hashlib.sha256(f'{path} {version}'.encode()).hexdigest()[:16]}.webp"
            groups[found["name"]].append(Picture(file, found["name"], step, address))
    pictures = {name: _spread(own) for name, own in sorted(groups.items())}
    return RunFiles(pictures, REPORT in versions)


def read_picture(run: ListedRun, picture: Picture) -> bytes | None:
    """A picture as WebP, no wider than a page; None for one that cannot be read."""
    encoded = io.BytesIO()
    try:
        file = io.BytesIO(_read(run, f"{_FOLDER}/{picture.file}"))
        with Image.open(file, formats=_KINDS) as opened:
            if opened.width * opened.height > _LARGEST_PIXELS:
                return None
            drawn = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    drawn.thumbnail((WIDEST, 4 * WIDEST))
    drawn.save(encoded, "webp", quality=_QUALITY)
    return encoded.getvalue()


def read_report(run: ListedRun) -> bytes | None:
    """The page that `tap report RUN` has written; None where there is none."""
    try:
        return _read(run, REPORT)
    except (OSError, ValueError):
        return None


def _place(run: ListedRun) -> Location:
    return mirror_place(run.storage, run.account.project, run.account.name)


def _read(run: ListedRun, name: str) -> bytes:
    """A file of a run.

    Raises:
        OSError: it cannot be read, or is a link to what is not the run's.
    """
    place = _place(run)
    if isinstance(place, Path) and not (place / name).resolve().is_relative_to(place.resolve()):
        raise PermissionError(f"{place / name} leads out of the run")
    return read_bytes(place / name)


def _versions(run: ListedRun) -> dict[str, str]:
    place = _place(run)
    if "://" in run.storage:
        return read_index(place)
    folder, report = place / _FOLDER, place / REPORT
    files = [path for path in list_files(folder) if not path.name.startswith(".")]
    found = {f"{_FOLDER}/{path.name}": version_of(path) for path in files}
    return {**found, REPORT: ""} if list_files(report.parent, report.name) else found


def _spread(pictures: Sequence[Picture]) -> list[Picture]:
    """Some of them, evenly, if they are many."""
    ordered = sorted(pictures, key=lambda each: -1 if each.step is None else each.step)
    if len(ordered) <= MOST_STEPS:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(k * last / (MOST_STEPS - 1))] for k in range(MOST_STEPS)]
