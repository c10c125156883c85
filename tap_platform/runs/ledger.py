"""All runs of a storage, or of a mirror: one account a run, from run directories alone.

Accounts of runs that have ended are kept in this computer's cache folder, and read anew where a
file of the run has changed since.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from datamodules.cache_folder import cache_folder
from tap_platform.runs.account import RunAccount
from tap_platform.runs.accounting import SWEEP, account_of
from tap_platform.runs.directory import SWEEPS, RunDirectory, local_path
from tap_platform.runs.files import write_atomic

__all__ = ["Fault", "Ledger", "RunAccount", "read_ledger"]

FORMAT = 1
"""Of the cache; another one is read as an empty one."""
FILES = frozenset(
    {
        "status.json",
        "config.json",
        "pipeline.json",
        "ablation.json",
        "provenance.json",
        "events.jsonl",
        "metrics.jsonl",
        SWEEP,
    }
)
"""What an account is made of."""
_AT_ONCE = 16
_KEPT = TypeAdapter(dict[str, tuple[str, RunAccount]])


@dataclass(frozen=True)
class Fault:
    """A directory, or a file of one, that could not be read."""

    path: str
    why: str
    """For people: what is wrong, and what to do."""
    skipped: bool
    """Whether the run has no account for it."""


@dataclass(frozen=True)
class Ledger:
    """The accounts of all runs, and what could not be read."""

    folder: str
    """The storage, or the mirror."""
    accounts: tuple[RunAccount, ...]
    """By project and name."""
    faults: tuple[Fault, ...]
    read: float
    """When, seconds since 1970."""


def read_ledger(folder: str | Path, now: float | None = None) -> Ledger:
    """Read the accounts of all runs.

    A run that can be read in part has an account, and its faults are listed; one without a readable
    status has none, and is listed as skipped.

    Args:
        folder: A storage, as jobs name it; or a mirror's URL (`s3://…`), of which what is new is
            fetched to this computer's cache folder first.
        now: The time to count up to, seconds since 1970; by default the present.

    Raises:
        ValueError: There is no such folder, or the URL's kind is unknown.
        OSError: The store does not answer.
    """
    now = time.time() if now is None else now
    faults: list[Fault] = []
    place = _fetched(str(folder), faults) if "://" in str(folder) else local_path(folder)
    if not place.is_dir():
        raise ValueError(
            f"there is no folder {place} to read runs from: name the storage of the jobs, or a"
            " mirror's URL"
        )
    kept, accounts = _kept(place), []
    known: dict[str, tuple[str, RunAccount]] = {}
    for run in _run_directories(place, faults):
        version = _version(run)
        was, account = kept.get(str(run), ("", None))
        if account is None or was != version:
            account = _read(run, now, faults)
        if account is None:
            continue
        accounts.append(account)
        faults += [Fault(str(run), why, skipped=False) for why in account.faults]
        if version and account.ended is not None and account.state != "lost":
            known[str(run)] = version, account
    if known != kept:
        _keep(place, known)
    return Ledger(str(folder), tuple(accounts), tuple(faults), now)


def _read(run: Path, now: float, faults: list[Fault]) -> RunAccount | None:
    try:
        return account_of(RunDirectory(run), now)
    except FileNotFoundError:
        why = "it has no status.json: delete the folder, or restore the file"
        faults.append(Fault(str(run), why, skipped=True))
    except (ValueError, TypeError, OSError) as error:
        faults.append(Fault(str(run), str(error).splitlines()[0], skipped=True))
    return None


def _run_directories(storage: Path, faults: list[Fault]) -> Iterator[Path]:
    """Folders that are runs, or were meant to be, by project and name."""
    for project in _folders(storage):
        folders: list[Path] = []
        with _told(project, faults):
            folders = _folders(project)
        for folder in folders:
            with _told(folder, faults):
                if any((folder / name).exists() for name in ("status.json", "events.jsonl")):
                    yield folder


@contextmanager
def _told(folder: Path, faults: list[Fault]) -> Iterator[None]:
    """List a folder that cannot be read, and pass over it."""
    try:
        yield
    except OSError as error:
        why = f"it cannot be read ({error.strerror}): see to its permissions"
        faults.append(Fault(str(folder), why, skipped=True))


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        found = [e.path for e in entries if e.is_dir() and not e.name.startswith(".")]
    return [Path(path) for path in sorted(found)]


def _version(run: Path) -> str:
    """Changes with every change of a file that an account is made of; empty where one is gone."""
    try:
        with os.scandir(run) as entries:
            files = sorted((e.name, e.stat()) for e in entries if e.name in FILES)
    except OSError:  # a link to nothing, or a run that is deleted now
        return ""
    return ";".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)


def _cache_file(place: Path) -> Path:
    name = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    return cache_folder() / "ledger" / f"{name}-{FORMAT}.json"


def _kept(place: Path) -> dict[str, tuple[str, RunAccount]]:
    try:
        return _KEPT.validate_json(_cache_file(place).read_bytes())
    except (OSError, ValidationError):
        return {}


def _keep(place: Path, known: dict[str, tuple[str, RunAccount]]) -> None:
    """What cannot be kept is read again the next time."""
    path = _cache_file(place)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _KEPT.dump_json(known), durable=False)


def _fetched(mirror: str, faults: list[Fault]) -> Path:
    """A folder with what a mirror has of the files of all runs."""
    from datamodules.storage import list_files, location
    from tap_platform.runs.mirrored import fetch_run, fetched_folder

    projects = [place for place in list_files(location(mirror)) if place.name != SWEEPS]
    runs = [
        (project.name, place.name)
        for project in projects
        for place in list_files(project)
        if place.name != SWEEPS
    ]

    def fetch(project: str, run: str) -> Fault | None:
        try:
            fetch_run(mirror, project, run, FILES)
        except (ValueError, OSError) as error:
            return Fault(f"{mirror.rstrip('/')}/{project}/{run}", str(error), skipped=True)
        return None

    with ThreadPoolExecutor(_AT_ONCE) as readers:
        found = readers.map(lambda names: fetch(*names), runs)
        faults += [fault for fault in found if fault is not None]
    place = fetched_folder(mirror, FILES)
    place.mkdir(parents=True, exist_ok=True)
    for gone in set(_run_directories(place, faults)) - {
        place / project / run for project, run in runs
    }:
        shutil.rmtree(gone, ignore_errors=True)
    return place
