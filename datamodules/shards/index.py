"""Where every sample lies: an index that loads at once, however many samples it lists.

`index.json` lists the shards (name, bytes, sha256, samples), in columns. `samples.npy` beside it is
one fixed-width row a sample (key, and the offset and size of each of its members in the tar); it is
mapped, not read, so that a data set of 10^9 samples opens in the time of its list of shards. That
of a remote folder is copied once to a local cache and mapped there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from datamodules.local_cache import local_copy
from datamodules.shards.entries import INDEX_NAME, SAMPLES_NAME, Members, file_name, row_type
from datamodules.shards.provenance import check_ended
from datamodules.storage import (
    Location,
    check_name,
    child,
    location,
    read_bytes,
    reason,
)


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

        return join_sidecar(index, cls._load(location(priors)))

    @classmethod
    def _load(cls, folder: Location) -> DataIndex:
        if isinstance(folder, Path) and not folder.is_dir():
            check_ended(folder.parent)
            raise ValueError(f"no such folder of shards: {folder}")
        path = folder / INDEX_NAME
        again = f"with: tap data index {folder}"
        try:
            return cls._read(folder, read_bytes(path))
        except FileNotFoundError as error:
            check_ended(folder.parent)
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
        or rows.dtype != row_type(rows.dtype["key"].itemsize)
    ):
        raise ValueError(f"{SAMPLES_NAME} has other columns than an index has")
    if len(rows) != expected:
        raise ValueError(f"{SAMPLES_NAME} has {len(rows)} rows for {expected} samples")
    return rows


def join_sidecar(main: DataIndex, sidecar: DataIndex) -> DataIndex:
    """The index of samples whose priors lie in a sidecar.

    A sidecar that was made of this very index is taken at its word; otherwise shards and keys are
    compared, so that an index that was made again takes its sidecar along.

    Raises:
        ValueError: if the sidecar is of other samples; it names the first shard that differs.
    """
    if sidecar.main != main.sha256 or not np.array_equal(sidecar.counts, main.counts):
        shards = [(name, sidecar.keys(shard)) for shard, name in enumerate(sidecar.names)]
        check_same_samples(main, sidecar.folder, shards)
    digest = hashlib.sha256(f"{main.sha256} {sidecar.sha256}".encode()).hexdigest()
    return replace(main, sidecar=sidecar, sha256=digest)


def check_same_samples(
    main: DataIndex, folder: Location, shards: Sequence[tuple[str, Sequence[bytes]]]
) -> None:
    """Compare the names and keys of sidecar shards with those of the main index.

    Raises:
        ValueError: at the first shard or sample that differs.
    """
    where = f"the priors in {folder} are not of the samples in {main.folder}"
    if len(main.names) != len(shards):
        raise ValueError(f"{where}: {len(shards)} shards there, {len(main.names)} here")
    for shard, (other, theirs) in enumerate(shards):
        name, ours = file_name(main.names[shard]), main.keys(shard)
        if name != other:
            raise ValueError(f"{where}: shard {shard} is {other} there and {name} here")
        if len(ours) != len(theirs):
            raise ValueError(f"{where}: {name} has {len(theirs)} samples there, {len(ours)} here")
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            if our != their:
                raise ValueError(
                    f"{where}: sample {number} of {name} is {their.decode()} there and"
                    f" {our.decode()} here"
                )
