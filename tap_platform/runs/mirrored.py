"""Reads runs from the copies that `runs.mirror` makes of them, when their own storage is gone."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from datamodules.cache_folder import cache_folder
from datamodules.storage import Location, list_files, location, read_bytes
from tap_platform.runs.directory import RunDirectory, check_plain_name
from tap_platform.runs.files import write_atomic
from tap_platform.runs.mirror import INDEX, STATUS, mirror_place, read_index
from tap_platform.runs.status import RunStatus

_AT_ONCE = 16
_LOG = logging.getLogger(__name__)


class MirroredRun(NamedTuple):
    """What a mirror tells of a run without fetching it."""

    project: str
    run: str
    status: RunStatus
    """As it was copied last: of a driver that is gone without a word, `running`."""


def mirrored_runs(mirror: str) -> Iterator[MirroredRun]:
    """The runs of a mirror, by project and name; a broken status is passed over, with a warning.

    Args:
        mirror: The folder or URL, `mirror.url` of the jobs.

    Raises:
        OSError: The store does not answer.
        ValueError: The URL's kind is unknown.
    """
    folders = [run for project in list_files(location(mirror)) for run in list_files(project)]
    with ThreadPoolExecutor(_AT_ONCE) as readers:
        for folder, status in zip(folders, readers.map(_status, folders), strict=True):
            if status is not None:
                yield MirroredRun(folder.parent.name, folder.name, status)


def fetch_run(
    mirror: str, project: str, run: str, only: frozenset[str] | None = None
) -> RunDirectory:
    """A run directory with all that a mirror has of it, in this computer's cache folder.

    What was fetched before and has not changed is not fetched again. There are no checkpoints in
    it, and nothing can be trained there.

    Args:
        mirror: The folder or URL, `mirror.url` of the job.
        project: The run's project.
        run: Its name.
        only: The files to fetch, by their paths in the run directory; None: all of them. Folders of
            some files are apart from those of all.

    Raises:
        OSError: The store does not answer.
        ValueError: The mirror has no such run, its list names files outside of it, or a name is not
            plain: it may be a cluster's word.
    """
    check_plain_name("project", project)
    check_plain_name("run", run)
    place = mirror_place(mirror, project, run)
    there = read_index(place)
    if not there:
        raise ValueError(f"there is no run {project}/{run} in {mirror}: is it mirrored there?")
    if only is not None:
        there = {name: version for name, version in there.items() if name in only}
    folder = fetched_folder(mirror, only) / project / run
    folder.mkdir(parents=True, exist_ok=True)
    _refresh(folder, place, there)
    return RunDirectory(folder)


def fetched_folder(mirror: str, only: frozenset[str] | None = None) -> Path:
    """Where runs of a mirror lie once they are fetched, `<project>/<run>`; it may not exist yet.

    Args:
        mirror: The folder or URL.
        only: The files that are fetched; None: all of them.
    """
    what = mirror.rstrip("/") if only is None else "\n".join([mirror.rstrip("/"), *sorted(only)])
    store = hashlib.sha256(what.encode()).hexdigest()[:16]
    return cache_folder() / "mirrored" / store


def _refresh(folder: Path, place: Location, there: dict[str, str]) -> None:
    """Fetch what is new; the list of what is there comes last, so that a cut loses nothing."""
    here = read_index(folder)
    new = [name for name, version in there.items() if here.get(name) != version]
    for name in sorted(new, key=lambda name: (name == STATUS, name)):
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{place / INDEX} names {name}, which leads out of the run")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, read_bytes(place / name), durable=False)
    write_atomic(folder / INDEX, json.dumps(there, indent=1).encode(), durable=False)


def _status(folder: Location) -> RunStatus | None:
    try:
        return RunStatus.model_validate_json(read_bytes(folder / STATUS))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        _LOG.warning("%s is passed over: %s", folder / STATUS, error)
        return None
