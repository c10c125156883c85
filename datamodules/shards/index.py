"""Where every sample lies: an index that loads at once, however many samples it lists.

`index.json` lists the shards (name, bytes, sha256, samples), in columns. `samples.npy` beside it is
one fixed-width row a sample (key, and the offset and size of each of its members in the tar); it is
mapped, not read, so that a data set of 10^9 samples opens in the time of its list of shards.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from datamodules.storage import open_binary

FORMAT = "tap-shards/1"
INDEX_NAME = "index.json"
SAMPLES_NAME = "samples.npy"
_MEMBERS = {
    "jpg": "image",
    "jpeg": "image",
    "png": "image",
    "json": "annotation",
    "priors.npy": "priors",
}
_ABSENT = (-1, 0)
_BLOCK = 1 << 20


class Members(NamedTuple):
    """Where a sample's members lie in its shard: (byte offset, bytes), offset -1 where absent."""

    key: str
    image: tuple[int, int] = _ABSENT
    annotation: tuple[int, int] = _ABSENT
    priors: tuple[int, int] = _ABSENT


class ShardEntry(NamedTuple):
    """One shard: its file name, size in bytes, sha256 and samples."""

    name: str
    size: int
    sha256: str
    members: list[Members]


@dataclass(frozen=True, slots=True)
class DataIndex:
    """The shards of a folder and the samples in them. It travels to other processes by its path."""

    folder: Path
    names: tuple[str, ...]
    """File name of each shard."""
    counts: NDArray[np.int64]
    """Samples of each shard, `[shards]`."""
    starts: NDArray[np.int64]
    """Samples before each shard, `[shards]`."""
    samples: NDArray[Any]
    """One row a sample, mapped from `samples.npy`."""
    sha256: str
    """Hash of `index.json`, which holds those of the shards and of `samples.npy`."""

    def __len__(self) -> int:
        return len(self.samples)

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return DataIndex.load, (self.folder,)

    def path(self, shard: int) -> Path:
        """Path of a shard's tar."""
        return self.folder / self.names[shard]

    def members(self, shard: int, number: int) -> Members:
        """Where the members of sample `number` of a shard lie."""
        if not 0 <= number < self.counts[shard]:
            raise IndexError(f"{self.names[shard]} has {self.counts[shard]} samples, not {number}")
        row = self.samples[self.starts[shard] + number]
        image, annotation, priors = (
            (int(offset), int(size)) for offset, size in row["members"].tolist()
        )
        return Members(row["key"].decode(), image, annotation, priors)

    @classmethod
    def load(cls, folder: str | Path) -> DataIndex:
        """Open the index of a folder of shards.

        Raises:
            ValueError: if the folder or its index is missing or broken.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"no such folder of shards: {folder}")
        path = folder / INDEX_NAME
        try:
            content = path.read_bytes()
            record = orjson.loads(content)
            shards = record["shards"]
            counts = np.array(shards["samples"], np.int64)
            samples = _map_samples(folder / SAMPLES_NAME, int(counts.sum()))
        except FileNotFoundError as error:
            raise ValueError(
                f"{error.filename} is missing: index the shards with: tap data index {folder}"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is broken ({error}): index the shards again, with: tap data index {folder}"
            ) from error
        digest = hashlib.sha256(content).hexdigest()
        starts = np.cumsum(counts) - counts
        return cls(folder, tuple(shards["name"]), counts, starts, samples, digest)


def _map_samples(path: Path, expected: int) -> NDArray[Any]:
    """Map the rows of `samples.npy`; numpy cannot map a file without rows, so none is read."""
    rows: NDArray[Any] = np.load(path, mmap_mode="r" if expected else None, allow_pickle=False)
    if len(rows) != expected:
        raise ValueError(f"{path.name} has {len(rows)} rows for {expected} samples")
    return rows


def write_index(folder: str | Path, entries: Sequence[ShardEntry]) -> None:
    """Write `samples.npy` and then `index.json` of a folder, each in one step."""
    folder = Path(folder)
    rows = [members for entry in entries for members in entry.members]
    draft = folder / f".{SAMPLES_NAME}"
    with draft.open("wb") as file:
        np.lib.format.write_array(file, _rows(rows), allow_pickle=False)
    record = {
        "format": FORMAT,
        "samples": len(rows),
        "samples_sha256": sha256(draft),
        "shards": {
            "name": [entry.name for entry in entries],
            "bytes": [entry.size for entry in entries],
            "sha256": [entry.sha256 for entry in entries],
            "samples": [len(entry.members) for entry in entries],
        },
    }
    draft.replace(folder / SAMPLES_NAME)
    draft = folder / f".{INDEX_NAME}"
    draft.write_bytes(orjson.dumps(record))
    draft.replace(folder / INDEX_NAME)


def _rows(samples: Sequence[Members]) -> NDArray[Any]:
    keys = [each.key.encode() for each in samples]
    width = max(map(len, keys), default=1)
    rows = np.zeros(len(samples), [("key", f"S{width}"), ("members", np.int64, (3, 2))])
    if samples:
        rows["key"] = keys
        rows["members"] = [each[1:] for each in samples]
    return rows


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def index_shards(folder: str | Path, threads: int = 4) -> DataIndex:
    """Index tars that others made, such as SA-1B's own, without changing them.

    A sample is every member of a tar with the same path up to its first dot, wherever in the tar
    they lie. A tar that was cut is indexed up to the cut; what its last sample lacks is found when
    it is read, so that it counts as a bad sample.

    Args:
        folder: folder with `*.tar`; `index.json` and `samples.npy` are written in it.
        threads: tars read at once; every byte is read, for the checksums.

    Raises:
        ValueError: if the folder is missing, holds no tar, or one of them is not a tar.
    """
    paths = sorted(Path(folder).glob("*.tar"))
    if not paths:
        raise ValueError(f"no tars in {folder}: give the folder that holds the shards themselves")
    with ThreadPoolExecutor(threads) as pool:
        entries = list(pool.map(_entry, paths))
    write_index(folder, entries)
    return DataIndex.load(folder)


def _entry(path: Path) -> ShardEntry:
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    with open_binary(path) as file:
        for name, offset, size in _files(file, path):
            key, _, extension = name.rpartition("/")[2].partition(".")
            key = name[: len(name) - len(extension) - 1].removeprefix("./")
            member = _MEMBERS.get(extension.lower())
            if member is not None:
                samples.setdefault(key, {})[member] = (offset, size)
    members = [Members(key, **places) for key, places in samples.items()]
    return ShardEntry(path.name, path.stat().st_size, sha256(path), members)


def _files(file: Any, path: Path) -> list[tuple[str, int, int]]:
    """Name, byte offset and size of every file in a tar, up to its end or to where it was cut."""
    files = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    files.append((member.name, member.offset_data, member.size))
    except tarfile.ReadError as error:
        if not files:
            raise ValueError(f"{path} is not an uncompressed tar: {error}") from error
    return files
