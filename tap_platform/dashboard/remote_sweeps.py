"""Sweep directories of a store, fetched to this computer."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datamodules.cache_folder import cache_folder
from datamodules.storage import Location, list_files, location, read_bytes
from tap_platform.runs.directory import check_plain_name
from tap_platform.runs.files import write_atomic
from tap_platform.runs.ledger import Fault

FILES = ("sweep.json", "trials.jsonl", "status.json")
_AT_ONCE = 16


def fetch_sweeps(url: str, faults: list[Fault]) -> Path:
    """A folder with all sweeps of a store, `<project>/sweeps/<sweep>/`; ones that went are gone.

    Args:
        url: the store, `s3://bucket/runs`.
        faults: what could not be fetched is added.

    Raises:
        ValueError: the URL's kind is unknown.
        OSError: the store does not answer.
    """
    name = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    target = cache_folder() / "sweeps" / name
    folders = [
        (project.name, sweep)
        for project in list_files(location(url))
        for sweep in list_files(project / "sweeps")
    ]

    def fetch(project: str, sweep: Location) -> Fault | None:
        try:
            _fetch(project, sweep, target)
        except (ValueError, OSError) as error:
            return Fault(str(sweep), str(error).splitlines()[0], skipped=True)
        return None

    with ThreadPoolExecutor(_AT_ONCE) as readers:
        found = readers.map(lambda names: fetch(*names), folders)
        faults += [fault for fault in found if fault is not None]
    there = {(project, sweep.name) for project, sweep in folders}
    for old in target.glob("*/sweeps/*"):
        if (old.parent.parent.name, old.name) not in there:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _fetch(project: str, sweep: Location, target: Path) -> None:
    check_plain_name("project", project)
    check_plain_name("sweep", sweep.name)
    folder = target / project / "sweeps" / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        try:
            write_atomic(folder / name, read_bytes(sweep / name), durable=False)
        except FileNotFoundError:
            (folder / name).unlink(missing_ok=True)
