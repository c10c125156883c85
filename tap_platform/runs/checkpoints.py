"""The catalogue of a run's checkpoints: `checkpoints/step-N/`, and which of them can be trusted.

A checkpoint is its files, `manifest.json` with their sizes and SHA-256, and `COMMITTED`, written
last, with the SHA-256 of the manifest. A folder without `COMMITTED` does not exist.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tap_platform.runs.files import (
    flush_to_disk,
    read_json,
    sha256_of,
    utc_now,
    write_atomic,
    write_json,
)

MANIFEST = "manifest.json"
COMMITTED = "COMMITTED"
_STEP_FOLDER = re.compile(r"step-(\d+)")


class CorruptCheckpointError(Exception):
    """A committed checkpoint whose files are not those that were committed."""


def prepare(checkpoints: Path, step: int) -> Path:
    """An empty folder for the checkpoint of a step; what an earlier attempt left there goes.

    One process calls it, before any process writes: a file left by a larger world size would
    otherwise be committed along with the new ones.
    """
    folder = checkpoints / f"step-{step}"
    _remove(folder)
    folder.mkdir(parents=True)
    return folder


def commit(folder: Path) -> None:
    """Make a checkpoint exist, once all its files are written; it survives a crash from here on."""
    manifest = folder / MANIFEST
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != manifest)
    with ThreadPoolExecutor() as pool:
        entries = list(pool.map(_flushed_entry, paths))
    names = [path.relative_to(folder).as_posix() for path in paths]
    write_json(manifest, {"time": utc_now(), "files": dict(zip(names, entries, strict=True))})
    for inner in {path.parent for path in paths}:
        flush_to_disk(inner)
    write_atomic(folder / COMMITTED, sha256_of(manifest).encode())
    flush_to_disk(folder.parent)


def is_committed(folder: Path) -> bool:
    """Whether a checkpoint exists; its files may have rotted since (see `verify`)."""
    return (folder / COMMITTED).is_file()


def step_of(folder: Path) -> int:
    """The optimizer step that a checkpoint's folder is named after."""
    return int(folder.name.removeprefix("step-"))


def committed(checkpoints: Path) -> list[Path]:
    """The folders of all committed checkpoints, from the earliest step to the latest."""
    return [folder for folder in _step_folders(checkpoints) if is_committed(folder)]


def verify(folder: Path) -> None:
    """Read every byte of a checkpoint and compares it with what was committed.

    Raises:
        CorruptCheckpointError: It is not committed, or a file is missing, cut, grown or changed;
            the message names the file.
    """
    if not is_committed(folder):
        raise CorruptCheckpointError(f"{folder} is not committed: its writer did not finish")
    try:
        digest = sha256_of(folder / MANIFEST)
        if digest != (folder / COMMITTED).read_text():
            raise CorruptCheckpointError(f"{folder}: {MANIFEST} and {COMMITTED} do not agree")
        files = read_json(folder / MANIFEST)["files"]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: _check(folder / name, files[name]), files))
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptCheckpointError(f"{folder} cannot be read: {error}") from error


def latest(checkpoints: Path, on_skipped: Callable[[Path, str], None]) -> Path | None:
    """The newest committed checkpoint whose files are those that were committed, if there is one.

    Args:
        checkpoints: The run's folder of checkpoints.
        on_skipped: Told the folder of every newer checkpoint that is corrupt, and why.
    """
    for folder in reversed(committed(checkpoints)):
        try:
            verify(folder)
        except CorruptCheckpointError as error:
            on_skipped(folder, str(error))
        else:
            return folder
    return None


def prune(checkpoints: Path, keep_last: int) -> None:
    """Delete all but the newest committed checkpoints, and what was never committed before them.

    Args:
        checkpoints: The run's folder of checkpoints.
        keep_last: How many to keep, at least 1. A folder newer than all of them may be one that is
            being written, and stays.
    """
    assert keep_last >= 1
    if not (kept := committed(checkpoints)[-keep_last:]):
        return
    for folder in _step_folders(checkpoints):
        if folder not in kept and step_of(folder) < step_of(kept[-1]):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Take the mark away first: a crash in between must leave no half checkpoint that exists."""
    if is_committed(folder):
        (folder / COMMITTED).unlink()
        flush_to_disk(folder)
    if folder.exists():
        shutil.rmtree(folder)


def _step_folders(checkpoints: Path) -> list[Path]:
    folders = [path for path in checkpoints.glob("step-*") if _STEP_FOLDER.fullmatch(path.name)]
    return sorted(folders, key=step_of)


def _flushed_entry(path: Path) -> dict[str, Any]:
    flush_to_disk(path)
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _check(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise CorruptCheckpointError(f"{path} is missing")
    if (size := path.stat().st_size) != entry["size"]:
        raise CorruptCheckpointError(f"{path} has {size} bytes instead of {entry['size']}")
    if sha256_of(path) != entry["sha256"]:
        raise CorruptCheckpointError(f"{path} was changed after the commit: its SHA-256 differs")
