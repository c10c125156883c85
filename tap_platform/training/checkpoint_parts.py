"""One worker's files of a checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from datamodules.storage import Location, atomic_file, make_folder
from tap_platform.runs.checkpoint_manifest import FileEntry
from tap_platform.runs.checkpoint_receipts import tag_of
from tap_platform.runs.files import flush_to_disk

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def part_name(rank: int, write: str) -> str:
    """The name of one worker's tensors, of one write alone: a late writer overwrites no other."""
    return f"part-{rank:05}-{tag_of(write)}.safetensors"


def write_files(
    folder: Location,
    part: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    documents: Mapping[str, bytes],
) -> dict[str, FileEntry]:
    """Write the tensors and documents of one worker, safely: on disk, or taken by the store.

    Args:
        folder: The checkpoint, which need not exist.
        part: Name of the tensors' file.
        tensors: In host memory.
        metadata: Kept in the head of the tensors' file.
        documents: Bytes of further files, by name.

    Returns:
        The size and SHA-256 of every file.

    Raises:
        OSError: A file cannot be written. Nothing under its name is left that is half written.
    """
    make_folder(folder)
    entries: dict[str, FileEntry] = {}
    with _written(folder / part, entries) as draft, _plain_errors():
        save_file(dict(tensors), draft, dict(metadata))
    for name, text in documents.items():
        with _written(folder / name, entries) as draft:
            draft.write_bytes(text)
    return entries


@contextmanager
def _written(place: Location, entries: dict[str, FileEntry]) -> Iterator[Path]:
    """A local file to fill, which is then hashed, and moved or uploaded to its place."""
    with atomic_file(place) as file:
        draft = Path(file.name)
        yield draft
        flush_to_disk(draft)
        entries[place.name] = FileEntry.of(draft)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors of the system as such, which the library puts into words."""
    try:
        yield
    except SafetensorError as error:
        found = _SYSTEM_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from error
