"""What a checkpoint is made of: `manifest.json`, the one list of its files that is believed.

A manifest may lie in a store that others write to. Its names are plain file names, its sizes are
compared with the files before a byte is read, and it is bound to the mark `COMMITTED`, which holds
its SHA-256.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from datamodules.storage import (
    Location,
    atomic_folder,
    exists,
    read_blocks,
    read_bytes,
    read_range,
    reason,
    size_of,
)
from tap_platform.runs.files import flush_to_disk, sha256_of

MANIFEST = "manifest.json"
COMMITTED = "COMMITTED"
LONGEST_MANIFEST = 16 << 20
"""Bytes; some 100,000 files."""
FETCHED_AT_ONCE = 8
OUTAGES = frozenset(
    {
        errno.ESTALE,
        errno.EIO,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    }
)
"""Errors of a mounted store or of this computer, which say nothing about a file."""
_STEP_FOLDER = re.compile(r"step-(0|[1-9]\d{0,14})")

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$")]


class CorruptCheckpointError(Exception):
    """A committed checkpoint whose files are not those that were committed."""


class FileEntry(BaseModel):
    """One file, by its content."""

    size: int = Field(ge=0)
    """Bytes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hexadecimal."""

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """The entry of a local file."""
        return cls(size=path.stat().st_size, sha256=sha256_of(path))


class Manifest(BaseModel):
    """All files of a checkpoint."""

    time: str
    """When it was committed, UTC in ISO 8601."""
    step: int
    """Optimizer steps done."""
    world_size: int
    """Workers that wrote it."""
    files: dict[FileName, FileEntry]
    """Each file by its name."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())


def is_step_folder(folder: Location) -> bool:
    """Whether a folder has the name of a checkpoint."""
    return _STEP_FOLDER.fullmatch(folder.name) is not None


def step_of(folder: Location) -> int:
    """The optimizer step that a checkpoint's folder is named after."""
    return int(folder.name.removeprefix("step-"))


def is_committed(folder: Location) -> bool:
    """Whether a checkpoint exists; its files may have rotted since (see `verify`).

    Raises:
        OSError: The store does not say.
    """
    return exists(folder / COMMITTED)


def read_manifest(folder: Location) -> Manifest:
    """The list of a checkpoint's files, made sure of.

    Raises:
        CorruptCheckpointError: It is missing, changed, of another step, or no manifest.
        OSError: The store is down.
    """
    with _unreadable_is_corrupt(folder):
        mark = read_range(folder / COMMITTED, 0, 65)
        text = read_range(folder / MANIFEST, 0, LONGEST_MANIFEST + 1)
    if hashlib.sha256(text).hexdigest().encode() != mark:
        raise CorruptCheckpointError(f"{folder}: {MANIFEST} and {COMMITTED} do not agree")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))[:200]
        raise CorruptCheckpointError(
            f"{folder}: {MANIFEST} is none ({where or 'as a whole'}: {fault['msg'][:200]})"
        ) from None
    if manifest.step != step_of(folder):
        raise CorruptCheckpointError(f"{folder} holds a checkpoint of step {manifest.step}")
    return manifest


def verify(folder: Location) -> None:
    """Read every byte of a checkpoint and compare it with what was committed.

    Raises:
        CorruptCheckpointError: It is not committed, or a file is missing, cut, grown or changed;
            the message names the file.
        OSError: The store is down.
    """
    if not is_committed(folder):
        raise CorruptCheckpointError(f"{folder} is not committed: its writer did not finish")
    files = read_manifest(folder).files
    with _unreadable_is_corrupt(folder), ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        for name, entry in files.items():
            _check_size(folder / name, entry)
        list(pool.map(lambda name: _check(folder / name, files[name]), files))


def fetch(folder: Location, target: Path) -> None:
    """Copy a checkpoint to a local folder, which appears when every byte has been verified.

    Raises:
        CorruptCheckpointError: As `verify`.
        OSError: The store is down, or the disk is full.
        ValueError: There is no room for it, or the target cannot be written.
    """
    manifest = read_manifest(folder)
    files = manifest.files
    with _unreadable_is_corrupt(folder):
        for name, entry in files.items():
            _check_size(folder / name, entry)
    _check_room(manifest, target)
    with atomic_folder(target) as draft:
        with _unreadable_is_corrupt(folder), ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
            list(pool.map(lambda name: _check(folder / name, files[name], draft / name), files))
            for name in (MANIFEST, COMMITTED):
                (draft / name).write_bytes(read_bytes(folder / name))
        flush_to_disk(draft)
    if read_manifest(target) != manifest:
        raise CorruptCheckpointError(f"{folder} was changed while it was read")


def _check_size(place: Location, entry: FileEntry) -> None:
    size = size_of(place)
    if size != entry.size:
        raise CorruptCheckpointError(f"{place} has {size} bytes instead of {entry.size}")


def _check(place: Location, entry: FileEntry, copy: Path | None = None) -> None:
    """Read a file, and write what is read to a copy, if one is wanted."""
    digest, size = hashlib.sha256(), 0
    with (copy or Path("/dev/null")).open("wb") as file:
        for block in read_blocks(place):
            size += len(block)
            if size > entry.size:
                break
            digest.update(block)
            file.write(block)
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise CorruptCheckpointError(f"{place} was changed after the commit: its SHA-256 differs")


def _check_room(manifest: Manifest, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    if manifest.size > free:
        raise ValueError(
            f"a checkpoint of {manifest.size:,} bytes does not fit in {target.parent}, which has"
            f" {free:,} free: make room, or set TAP_CACHE to a folder on a larger disk"
        )


@contextmanager
def _unreadable_is_corrupt(folder: Location) -> Iterator[None]:
    """A file that is gone or forbidden is no checkpoint's; a store that is down says nothing."""
    try:
        yield
    except FileNotFoundError as error:
        raise CorruptCheckpointError(f"{error.filename} is missing") from error
    except OSError as error:
        if not isinstance(folder, Path) and not isinstance(error, PermissionError):
            raise
        if error.errno in OUTAGES:
            raise
        raise CorruptCheckpointError(
            f"{error.filename or folder} cannot be read: {reason(error)}"
        ) from error
