"""How the first worker learns that all parts of a checkpoint are written, without a collective.

Every worker puts a small file beside its part when that is safe, or when it has failed. The file
names the write that it belongs to, so that nothing of an earlier attempt, with other workers
perhaps, is taken for a part of this one.
"""

from __future__ import annotations

import hashlib
import time

from pydantic import BaseModel, ValidationError

from datamodules.storage import Location, list_files, make_folder, read_bytes, write_bytes
from tap_platform.runs.checkpoint_manifest import FileEntry, FileName

FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 1.0


class Receipt(BaseModel):
    """What became of one worker's part."""

    write: str
    """Name of the write, which all workers have agreed on."""
    files: dict[FileName, FileEntry] = {}
    """What the worker has written and flushed."""
    failure: str | None = None
    """Why it could not, if so."""


def tag_of(write: str) -> str:
    """What stands for a write in names of files, so that none overwrites what another has written.

    Returns:
        Eight hexadecimal digits.
    """
    return hashlib.sha256(write.encode()).hexdigest()[:8]


class PartMissingError(Exception):
    """A checkpoint cannot be committed, for a worker has not written its part."""


def put_receipt(folder: Location, rank: int, receipt: Receipt) -> None:
    """Tell the first worker.

    Raises:
        OSError: It cannot be written.
    """
    make_folder(folder)
    write_bytes(folder / _name(rank, receipt.write), receipt.model_dump_json().encode())


def wait_for_receipts(
    folder: Location, write: str, ranks: range, patience: float
) -> dict[str, FileEntry]:
    """The files of other workers, as soon as all have written theirs.

    Args:
        folder: of the checkpoint.
        write: name of the write.
        ranks: the workers to wait for.
        patience: seconds to wait.

    Raises:
        PartMissingError: A worker has failed, or says nothing in time.
        OSError: The store is down.
    """
    files: dict[str, FileEntry] = {}
    missing = set(ranks)
    deadline, pause = time.monotonic() + patience, FIRST_PAUSE_SECONDS
    while missing:
        for rank, receipt in _receipts(folder, write, missing).items():
            if receipt.failure is not None:
                raise PartMissingError(f"worker {rank}: {receipt.failure}")
            missing.remove(rank)
            files |= receipt.files
        if missing and time.monotonic() > deadline:
            silent = ", ".join(map(str, sorted(missing)[:8]))
            raise PartMissingError(f"no word of worker {silent} within {patience:g} s")
        if missing:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return files


def _receipts(folder: Location, write: str, ranks: set[int]) -> dict[int, Receipt]:
    """Those of this write that are there."""
    there = {place.name: place for place in list_files(folder, "receipt-*.json")}
    found = {}
    for rank in sorted(ranks):
        place = there.get(_name(rank, write))
        if place is not None and (receipt := _read(place)):
            found[rank] = receipt
    return {rank: receipt for rank, receipt in found.items() if receipt.write == write}


def _read(place: Location) -> Receipt | None:
    try:
        return Receipt.model_validate_json(read_bytes(place))
    except (FileNotFoundError, ValidationError):
        return None


def _name(rank: int, write: str) -> str:
    return f"receipt-{rank:05}-{tag_of(write)}.json"
