"""The catalogue of a run's checkpoints: `step-N/`, and which of them exist, count and stay.

A checkpoint is its files, `manifest.json` with their sizes and SHA-256, and `COMMITTED`, written
last, with the SHA-256 of the manifest. A folder without `COMMITTED` does not exist. The folders lie
in the run directory, in another folder, or at a URL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from datamodules.storage import (
    Location,
    list_files,
    location,
    make_folder,
    remove_tree,
    write_bytes,
)
from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.runs.checkpoint_manifest import (
    COMMITTED,
    MANIFEST,
    CorruptCheckpointError,
    FileEntry,
    Manifest,
    fetch,
    is_committed,
    is_step_folder,
    read_manifest,
    step_of,
    verify,
)
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import flush_to_disk, utc_now, write_atomic

__all__ = [
    "COMMITTED",
    "MANIFEST",
    "CorruptCheckpointError",
    "FileEntry",
    "checkpoint_place",
    "commit",
    "committed",
    "fetch",
    "is_committed",
    "latest",
    "prepare",
    "prune",
    "read_manifest",
    "step_of",
    "sweep",
    "verify",
]


def checkpoint_place(run: RunDirectory, config: CheckpointConfig) -> Location:
    """Where a run's `step-N/` lie.

    Raises:
        ValueError: `checkpoint.storage` is a URL of an unknown kind.
    """
    if config.storage is None:
        return run.checkpoints
    return location(config.storage) / run.project / run.name


def prepare(place: Location, step: int) -> Location:
    """An empty folder for the checkpoint of a step; what was there goes."""
    folder = place / f"step-{step}"
    _remove(folder)
    make_folder(folder)
    return folder


def commit(
    folder: Location, files: Mapping[str, FileEntry] | None = None, world_size: int = 1
) -> None:
    """Make a checkpoint exist, once all its files are written; it survives a crash from here on.

    Args:
        folder: `step-N`. What lies there under other names goes: it is of an earlier attempt.
        files: What the workers have written and flushed, by name; by default all that is there, in
            a local folder.
        world_size: How many workers wrote it.

    Raises:
        OSError: The mark cannot be written; the checkpoint does not exist then.
    """
    if files is None:
        assert isinstance(folder, Path)
        files = {path.name: _flushed(path) for path in list_files(folder)}
    remove_tree(folder / COMMITTED)
    for place in list_files(folder):
        if place.name not in files:
            remove_tree(place)
    manifest = Manifest(
        time=utc_now(), step=step_of(folder), world_size=world_size, files=dict(files)
    )
    text = manifest.model_dump_json(indent=2).encode()
    _write(folder / MANIFEST, text)
    _write(folder / COMMITTED, hashlib.sha256(text).hexdigest().encode())
    if isinstance(folder, Path):
        flush_to_disk(folder.parent)


def committed(place: Location) -> list[Location]:
    """The folders of all committed checkpoints, from the earliest step to the latest.

    Raises:
        OSError: The store is down.
    """
    return [folder for folder in _step_folders(place) if is_committed(folder)]


def latest(place: Path, on_skipped: Callable[[Location, str], None]) -> Path | None:
    """The newest committed checkpoint whose files are those that were committed, if there is one.

    Args:
        place: A local folder of checkpoints.
        on_skipped: Told the folder of every newer checkpoint that is corrupt, and why.
    """
    for folder in reversed(committed(place)):
        try:
            verify(folder)
        except CorruptCheckpointError as error:
            on_skipped(folder, str(error))
        else:
            assert isinstance(folder, Path)
            return folder
    return None


def prune(
    place: Location,
    keep_last: int,
    keep_every: int | None = None,
    keep_best: int = 0,
    scores: Mapping[int, float] | None = None,
    newest: int | None = None,
    abandoned: Callable[[int], bool] = lambda step: False,
) -> None:
    """Delete the committed checkpoints that need not stay, and uncommitted ones older than these.

    A run that goes back behind a corrupt checkpoint abandons it, and all after it: they are later
    than what it writes next, and must not count as newer.

    A run loads the checkpoint that it goes on from before its first step, so the first commit that
    could delete it comes after that.

    Args:
        place: The run's checkpoints. A folder newer than all committed ones may be one that is
            being written, and stays.
        keep_last: The newest, which stay; at least 1.
        keep_every: Those whose step is a multiple of this stay.
        keep_best: As many of those with the highest scores stay.
        scores: Steps and their scores, the higher the better. A checkpoint has the score of the
            last of these steps that is not after its own.
        newest: The step just written. What is later does not count, and stays; by default nothing.
        abandoned: Tells the steps that the run has gone back behind. They never count, and go when
            a later one is written.

    Raises:
        OSError: One cannot be deleted.
    """
    assert keep_last >= 1
    there = [step_of(folder) for folder in committed(place)]
    steps = [step for step in there if not abandoned(step) and (newest is None or step <= newest)]
    if not steps:
        return
    kept = set(steps[-keep_last:]) | set(_best(steps, scores or {})[:keep_best])
    kept |= {step for step in steps if keep_every and step % keep_every == 0}
    for folder in _step_folders(place):
        if step_of(folder) not in kept and step_of(folder) < steps[-1]:
            _remove(folder)


def sweep(place: Location, writing: int) -> None:
    """Delete what was never committed before the step that is being written.

    What is later may be another worker's, which is ahead.

    Raises:
        OSError: One cannot be deleted.
    """
    for folder in _step_folders(place):
        if step_of(folder) < writing and not is_committed(folder):
            remove_tree(folder)


def _best(steps: list[int], scores: Mapping[int, float]) -> list[int]:
    """The steps that have a score, the best first; of equals the newest."""
    known: dict[int, float] = {}
    for step in steps:
        if earlier := [scored for scored in scores if scored <= step]:
            known[step] = scores[max(earlier)]
    return sorted(known, key=lambda step: (known[step], step), reverse=True)


def _remove(folder: Location) -> None:
    """Take the mark away first: a crash in between must leave no half checkpoint that exists."""
    remove_tree(folder / COMMITTED)
    if isinstance(folder, Path) and folder.is_dir():
        flush_to_disk(folder)
    remove_tree(folder)


def _step_folders(place: Location) -> list[Location]:
    return sorted(filter(is_step_folder, list_files(place, "step-*")), key=step_of)


def _flushed(path: Location) -> FileEntry:
    assert isinstance(path, Path)
    flush_to_disk(path)
    return FileEntry.of(path)


def _write(place: Location, data: bytes) -> None:
    if isinstance(place, Path):
        write_atomic(place, data)
    else:
        write_bytes(place, data)
