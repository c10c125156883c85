"""WebDataset tars: written whole or not at all, read by byte offset, never unpacked to disk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from datamodules.files import atomic_folder, open_binary, reason
from datamodules.index import DataIndex, Members, ShardEntry, sha256, write_index
from datamodules.records import (
    BadSample,
    RawSample,
    Sample,
    encode_annotation,
    encode_priors,
    image_extension,
)


class ShardWriter:
    """Writes samples to `shard-000000.tar`, `shard-000001.tar`, … and their index.

    A context manager: the folder appears, complete, when the block ends well. Equal samples give
    equal bytes, so that the hash of a data set says what is in it.

        with ShardWriter("data/train", samples_per_shard=256) as writer:
            writer.write(sample)

    Args:
        folder: folder to make; it must not hold anything yet.
        samples_per_shard: samples in a tar; the last one may hold fewer.

    Raises:
        ValueError: if the folder holds something already or cannot be written to.
    """

    def __init__(self, folder: str | Path, samples_per_shard: int) -> None:
        self._target = Path(folder)
        self._samples_per_shard = samples_per_shard
        self._entries: list[ShardEntry] = []
        self._members: dict[str, Members] = {}
        self._tar: tarfile.TarFile | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._folder = self._stack.enter_context(atomic_folder(self._target))
        self._stack.push(self._finish)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finish_shard()
        if kind is None:
            write_index(self._folder, self._entries)

    def write(self, sample: Sample) -> None:
        """Append one sample.

        Raises:
            ValueError: if its key is not fit for a tar or is in the shard already, its image is
                neither JPEG nor PNG, or its priors are not one row a region.
        """
        self._check(sample)
        if len(self._members) == self._samples_per_shard:
            self._finish_shard()
        if self._tar is None:
            self._tar = tarfile.open(self._path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        key = sample.key
        members = Members(
            key,
            self._append(f"{key}.{image_extension(sample.image)}", sample.image),
            self._append(f"{key}.json", encode_annotation(sample)),
        )
        if sample.priors is not None:
            priors = self._append(f"{key}.priors.npy", encode_priors(sample.priors))
            members = members._replace(priors=priors)
        self._members[key] = members

    def _check(self, sample: Sample) -> None:
        if not sample.key or set(sample.key) & set("./\\\0"):
            raise ValueError(f"the key {sample.key!r} is empty, or holds a dot or a slash")
        if sample.key in self._members:
            raise ValueError(f"the key {sample.key!r} is in {self._path.name} already")
        if sample.priors is not None and len(sample.priors) != len(sample.regions):
            raise ValueError(
                f"sample {sample.key!r} has {len(sample.regions)} regions"
                f" but {len(sample.priors)} priors"
            )

    @property
    def _path(self) -> Path:
        return self._folder / f"shard-{len(self._entries):06d}.tar"

    def _append(self, name: str, data: bytes) -> tuple[int, int]:
        assert self._tar is not None
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self._tar.offset - padded, len(data)

    def _finish_shard(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        path = self._path
        members = list(self._members.values())
        self._entries.append(ShardEntry(path.name, path.stat().st_size, sha256(path), members))
        self._members = {}


class _UnreadableError(Exception):
    """A member that a shard does not give."""


class ShardReader:
    """Reads samples of an index by byte offset; each shard is opened once, on first use.

    A context manager: its end closes the shards. It never raises for what it reads: a shard that is
    missing, cut or incomplete gives `BadSample`, the same one every time.
    """

    def __init__(self, index: DataIndex) -> None:
        self._index = index
        self._files: dict[int, BinaryIO | str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._files.clear()

    def read(self, shard: int, number: int) -> RawSample | BadSample:
        """Read sample `number` of shard number `shard`."""
        name = self._index.names[shard]
        members = self._index.members(shard, number)
        try:
            return RawSample(
                name,
                members.key,
                self._member(shard, members.image, "image"),
                self._member(shard, members.annotation, "annotation"),
                self._member(shard, members.priors, "priors") if members.priors[1] else None,
            )
        except _UnreadableError as error:
            return BadSample(name, members.key, str(error))

    def _member(self, shard: int, place: tuple[int, int], kind: str) -> bytes:
        file = self._open(shard)
        if isinstance(file, str):
            raise _UnreadableError(f"the shard cannot be read: {file}")
        offset, size = place
        if offset < 0:
            raise _UnreadableError(f"the shard holds no {kind} of that key")
        try:
            file.seek(offset)
            data = file.read(size)
        except OSError as error:
            raise _UnreadableError(f"the {kind} cannot be read: {reason(error)}") from error
        if len(data) < size:
            raise _UnreadableError(
                f"the shard was cut: the {kind} ends at byte {offset + size},"
                f" the shard at byte {file.seek(0, io.SEEK_END)}"
            )
        return data

    def _open(self, shard: int) -> BinaryIO | str:
        """The open shard, or why it cannot be opened."""
        if shard not in self._files:
            try:
                path = self._index.path(shard)
                self._files[shard] = self._stack.enter_context(open_binary(path))
            except OSError as error:
                self._files[shard] = reason(error)
        return self._files[shard]


def read_samples(
    index: DataIndex, shard: int, numbers: Iterable[int]
) -> Iterator[RawSample | BadSample]:
    """Read some samples of one shard, in the order given."""
    with ShardReader(index) as reader:
        for number in numbers:
            yield reader.read(shard, number)
