"""Samples read from shards by byte offset: what a shard holds never raises, nor touches a disk."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import BinaryIO, Self

from datamodules.shards.index import DataIndex
from datamodules.shards.records import BadSample, RawSample
from datamodules.storage import open_binary, reason


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
