"""Where every sample lies: an index that loads at once, however many samples it lists.

`index.json` lists the shards (name, bytes, sha256, samples), in columns. `samples.npy` beside it is
one fixed-width row a sample (key, and the offset and size of each of its members in the tar); it is
mapped, not read, so that a data set of 10^9 samples opens in the time of its list of shards. That
of a remote folder is copied once to a local cache and mapped there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from datamodules.local_cache import local_copy
from datamodules.storage import (
    Location,
    atomic_file,
    check_name,
    child,
    location,
    read_blocks,
    read_bytes,
    reason,
    write_bytes,
)

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


class SampleIndex(Protocol):
    """What a reader and a plan need to know of a data set."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each shard."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each shard, `[shards]`."""

    @property
    def sha256(self) -> str:
        """Changes when anything changes that the samples are read from."""

    def __len__(self) -> int:
        """Samples in all."""

    def path(self, shard: int) -> Location:
        """The tar that holds a shard's images and annotations."""

    def members(self, shard: int, number: int) -> Members:
        """Where the members of sample `number` of a shard lie."""

    def priors_path(self, shard: int) -> Location:
        """The tar that `Members.priors` points into: the shard itself, or its sidecar."""


@dataclass(frozen=True, slots=True)
class DataIndex:
    """The shards of a folder and the samples in them. It travels to other processes by its path."""

    folder: Location
    names: tuple[str, ...]
    """File name of each shard, or its absolute path or URL where it lies elsewhere."""
    counts: NDArray[np.int64]
    """Samples of each shard, `[shards]`."""
    starts: NDArray[np.int64]
    """Samples before each shard, `[shards]`."""
    sizes: NDArray[np.int64]
    """Bytes of each shard, `[shards]`."""
    checksums: tuple[str, ...]
    """sha256 of each shard; empty if it was not taken."""
    samples: NDArray[Any]
    """One row a sample, mapped from `samples.npy`."""
    sha256: str
    """Hash of `index.json`, which holds those of the shards and of `samples.npy`, and of the
    sidecar's."""
    main: str | None = None
    """Of a sidecar: the `sha256` of the index whose samples its priors belong to."""
    sidecar: DataIndex | None = None
    """Where the priors lie, if not in the shards."""

    def __len__(self) -> int:
        return len(self.samples)

    def __reduce__(self) -> tuple[Any, tuple[Location, Location | None]]:
        return DataIndex.load, (self.folder, None if self.sidecar is None else self.sidecar.folder)

    def path(self, shard: int) -> Location:
        """The tar that holds a shard's images and annotations."""
        return child(self.folder, self.names[shard])

    def priors_path(self, shard: int) -> Location:
        """The tar that `Members.priors` points into: the shard itself, or its sidecar."""
        return (self.sidecar or self).path(shard)

    def members(self, shard: int, number: int) -> Members:
        """Where the members of sample `number` of a shard lie."""
        if not 0 <= number < self.counts[shard]:
            raise IndexError(f"{self.names[shard]} has {self.counts[shard]} samples, not {number}")
        row = self.starts[shard] + number
        members = _members_of(self.samples[row])
        if self.sidecar is None:
            return members
        return members._replace(priors=_members_of(self.sidecar.samples[row]).priors)

    def keys(self, shard: int) -> list[bytes]:
        """Keys of the samples of a shard."""
        start = self.starts[shard]
        keys: list[bytes] = self.samples["key"][start : start + self.counts[shard]].tolist()
        return keys

    @classmethod
    def load(cls, folder: str | Location, priors: str | Location | None = None) -> DataIndex:
        """Open the index of a folder of shards.

        Args:
            folder: a path, or a URL.
            priors: the folder of the sidecar shards that hold the priors, if the shards do not.

        Raises:
            ValueError: if the folder or its index is missing or broken, or the sidecar is of other
                samples.
        """
        index = cls._load(location(folder))
        if priors is None:
            return index
        from datamodules.shards.sidecar import join_sidecar

        return join_sidecar(index, cls._load(location(priors)))

    @classmethod
    def _load(cls, folder: Location) -> DataIndex:
        if isinstance(folder, Path) and not folder.is_dir():
            _check_ended(folder)
            raise ValueError(f"no such folder of shards: {folder}")
        path = folder / INDEX_NAME
        again = f"with: tap data index {folder}"
        try:
            return cls._read(folder, read_bytes(path))
        except FileNotFoundError as error:
            _check_ended(folder)
            raise ValueError(f"{error.filename} is missing: index the shards {again}") from error
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {reason(error)}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is broken ({error}): index the shards again, {again}"
            ) from error

    @classmethod
    def _read(cls, folder: Location, content: bytes) -> DataIndex:
        record = orjson.loads(content)
        shards = record["shards"]
        counts = np.array(shards["samples"], np.int64)
        sizes = np.array(shards["bytes"], np.int64)
        names, checksums = tuple(map(str, shards["name"])), tuple(map(str, shards["sha256"]))
        fits = counts.shape == sizes.shape == (len(names),) == (len(checksums),)
        if not fits or (counts < 0).any():
            raise ValueError("its columns do not fit together")
        for name in names:
            check_name(folder, name)
        samples = _map_samples(folder, str(record["samples_sha256"]), sum(counts.tolist()))
        starts, digest = np.cumsum(counts) - counts, hashlib.sha256(content).hexdigest()
        return cls(
            folder, names, counts, starts, sizes, checksums, samples, digest, record.get("main")
        )


def _check_ended(folder: Location) -> None:
    """Tell a data set that is half made from one that was never indexed."""
    from datamodules.shards.provenance import check_ended

    check_ended(folder.parent)


def _members_of(row: Any) -> Members:
    image, annotation, priors = map(tuple, row["members"].tolist())
    return Members(row["key"].decode(errors="replace"), image, annotation, priors)


def _map_samples(folder: Location, digest: str, expected: int) -> NDArray[Any]:
    """Map the rows of `samples.npy`; numpy cannot map a file without rows, so none is read."""
    path = local_copy(folder / SAMPLES_NAME, digest)
    try:
        rows: NDArray[Any] = np.load(path, mmap_mode="r" if expected else None, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a broken header fails in numpy in many ways
        raise ValueError(f"{SAMPLES_NAME} is not an array: {error}") from error
    if (
        not isinstance(rows, np.ndarray)
        or rows.ndim != 1
        or rows.dtype != _row_type(rows.dtype["key"].itemsize)
    ):
        raise ValueError(f"{SAMPLES_NAME} has other columns than an index has")
    if len(rows) != expected:
        raise ValueError(f"{SAMPLES_NAME} has {len(rows)} rows for {expected} samples")
    return rows


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


def _row_type(width: int) -> np.dtype[Any]:
    return np.dtype([("key", f"S{width}"), ("members", np.int64, (3, 2))])


def _encode_rows(samples: Sequence[Members]) -> NDArray[Any]:
    keys = [each.key.encode() for each in samples]
    rows = np.zeros(len(samples), _row_type(max(map(len, keys), default=1)))
    if samples:
        rows["key"] = keys
        rows["members"] = [each[1:] for each in samples]
    return rows


def _write_rows(place: Location, shards: Sequence[NDArray[Any]]) -> str:
    """Write the rows of all shards as one array, as wide as the longest key; gives the sha256."""
    width = max((rows.dtype["key"].itemsize for rows in shards), default=1)
    header = io.BytesIO()
    description = np.lib.format.header_data_from_array_1_0(np.empty(0, _row_type(width)))
    np.lib.format.write_array_header_1_0(header, description | {"shape": (sum(map(len, shards)),)})
    digest = hashlib.sha256()
    with atomic_file(place) as file:
        for data in chain(
            [header.getvalue()], (rows.astype(_row_type(width)).tobytes() for rows in shards)
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
