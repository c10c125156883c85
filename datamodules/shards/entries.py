"""What an index lists: the members of every sample, written as two files.

`index.json` lists the shards (name, bytes, sha256, samples), in columns. `samples.npy` beside it is
one fixed-width row a sample: key, and the offset and size of each of its members in the tar.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from datamodules.storage import Location, atomic_file, location, read_blocks, write_bytes

FORMAT = "tap-shards/1"
INDEX_NAME = "index.json"
SAMPLES_NAME = "samples.npy"
_ABSENT = (-1, 0)


class Members(NamedTuple):
    """Where a sample's members lie in its shard: (byte offset, bytes), offset -1 where absent."""

    key: str
    image: tuple[int, int] = _ABSENT
    annotation: tuple[int, int] = _ABSENT
    priors: tuple[int, int] = _ABSENT


class ShardEntry(NamedTuple):
    """One shard: its file name, size in bytes, sha256 (empty if not taken) and samples."""

    name: str
    size: int
    sha256: str
    members: list[Members]


def file_name(name: str) -> str:
    """The file name of a shard that an index may name by a path or a URL."""
    return name.rpartition("/")[2]


def write_index(
    folder: str | Location, entries: Iterable[ShardEntry], main: str | None = None
) -> None:
    """Write `samples.npy` and then `index.json` of a folder, each in one step.

    Args:
        folder: where to write; it is there.
        entries: the shards, in their order; each is let go of before the next is asked for.
        main: of a sidecar, the `sha256` of the index whose samples its priors belong to.

    Raises:
        OSError: if they cannot be written.
    """
    folder = location(folder)
    shards: dict[str, list[Any]] = {"name": [], "bytes": [], "sha256": [], "samples": []}
    rows = []
    for entry in entries:
        rows.append(_encode_rows(entry.members))
        for column, value in zip(shards, (*entry[:3], len(entry.members)), strict=True):
            shards[column].append(value)
    record = {
        "format": FORMAT,
        "samples": sum(shards["samples"]),
        "samples_sha256": _write_rows(folder / SAMPLES_NAME, rows),
        "shards": shards,
    }
    if main is not None:
        record["main"] = main
    write_bytes(folder / INDEX_NAME, orjson.dumps(record))


def row_type(width: int) -> np.dtype[Any]:
    """A row of `samples.npy` with keys of at most `width` bytes."""
    return np.dtype([("key", f"S{width}"), ("members", np.int64, (3, 2))])


def _encode_rows(samples: Sequence[Members]) -> NDArray[Any]:
    keys = [each.key.encode() for each in samples]
    rows = np.zeros(len(samples), row_type(max(map(len, keys), default=1)))
    if samples:
        rows["key"] = keys
        rows["members"] = [each[1:] for each in samples]
    return rows


def _write_rows(place: Location, shards: Sequence[NDArray[Any]]) -> str:
    """Write the rows of all shards as one array, as wide as the longest key; gives the sha256."""
    width = max((rows.dtype["key"].itemsize for rows in shards), default=1)
    header = io.BytesIO()
    description = np.lib.format.header_data_from_array_1_0(np.empty(0, row_type(width)))
    np.lib.format.write_array_header_1_0(header, description | {"shape": (sum(map(len, shards)),)})
    digest = hashlib.sha256()
    with atomic_file(place) as file:
        for data in chain(
            [header.getvalue()], (rows.astype(row_type(width)).tobytes() for rows in shards)
        ):
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def sha256(place: Location) -> str:
    """Hex digest of a file.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    for block in read_blocks(place):
        digest.update(block)
    return digest.hexdigest()
