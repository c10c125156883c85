"""Samples read from shards by byte offset: what a shard holds never raises, nor touches a disk.

What is missing or cut is bad, in every run alike. What cannot be read for another reason, such as a
store that is down, may be sound: to leave it out would give a batch that depends on the weather, so
it ends the reading, and whoever reads goes on later.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Self, TypeAlias

from upath import UPath

from datamodules.shards.index import SampleIndex
from datamodules.shards.records import BadSample, RawSample
from datamodules.storage import Location, read_range, reason

OPEN_SHARDS = 64
"""Shards that a reader keeps open: a file each, and one more where the priors lie in a sidecar."""
GAP_BYTES = 64 << 10
"""Members of a remote shard that lie no further apart than this are read in one request."""

Place: TypeAlias = tuple[int, int]
"""Byte offset and bytes of a member."""


class StoreError(OSError):
    """A shard cannot be read, for a reason that says nothing of what is in it."""


class _UnreadableError(Exception):
    """A member that a shard does not give."""


class ShardReader:
    """Reads samples of an index by byte offset, from any number of threads.

    A context manager: its end lets go of the files. It never raises for what it reads: a shard that
    is missing, cut or incomplete gives `BadSample`, with the same reason for the same fault. A
    shard that has grown since it was indexed is read as it was.

    Args:
        index: where the samples lie.
        open_shards: shards to keep open, of those read last.
    """

    def __init__(self, index: SampleIndex, open_shards: int = OPEN_SHARDS) -> None:
        self._index = index
        self._open_shards = open_shards
        self._tars: OrderedDict[int, tuple[_Tar, _Tar]] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._tars.clear()

    def read(self, shard: int, number: int) -> RawSample | BadSample:
        """Read sample `number` of shard number `shard`.

        Raises:
            StoreError: if the shard is there, as far as can be told, and cannot be read.
        """
        name = self._index.names[shard]
        members = self._index.members(shard, number)
        wanted = {"image": members.image, "annotation": members.annotation}
        priors = {"priors": members.priors} if members.priors[0] >= 0 else {}
        try:
            tar, priors_tar = self._open(shard)
            if tar is priors_tar:
                found = _read(tar, "the shard", wanted | priors)
            else:
                found = _read(tar, "the shard", wanted)
                found |= _read(priors_tar, "the shard of the priors", priors)
        except _UnreadableError as error:
            return BadSample(name, members.key, str(error))
        return RawSample(
            name, members.key, found["image"], found["annotation"], found.get("priors")
        )

    def read_annotation(self, shard: int, number: int) -> bytes | BadSample:
        """Read the annotation alone of sample `number` of shard number `shard`.

        Raises:
            StoreError: as `read`.
        """
        members = self._index.members(shard, number)
        try:
            tar, _ = self._open(shard)
            return _read(tar, "the shard", {"annotation": members.annotation})["annotation"]
        except _UnreadableError as error:
            return BadSample(self._index.names[shard], members.key, str(error))

    def _open(self, shard: int) -> tuple[_Tar, _Tar]:
        """The tars of a shard and of its priors, which may be the same."""
        with self._lock:
            if shard in self._tars:
                self._tars.move_to_end(shard)
                return self._tars[shard]
            try:
                place, priors_place = self._index.path(shard), self._index.priors_path(shard)
            except ValueError as error:
                raise _UnreadableError(f"the shard cannot be read: {error}") from error
            tar = _tar(place)
            self._tars[shard] = tar, tar if priors_place == place else _tar(priors_place)
            if len(self._tars) > self._open_shards:
                self._tars.popitem(last=False)
            return self._tars[shard]


def _read(tar: _Tar, what: str, wanted: dict[str, Place]) -> dict[str, bytes]:
    """The bytes of some members of one tar."""
    for kind, (offset, size) in wanted.items():
        if offset < 0 or size < 0:
            raise _UnreadableError(f"{what} holds no {kind} of that key")
    spans = _spans(wanted.values(), tar.gap)
    try:
        data = {span: tar.read(*span) for span in spans}
    except (OSError, ValueError) as error:
        raise _UnreadableError(f"{what} {fault_of(tar.place, error)}") from error
    found = {}
    for kind, (offset, size) in wanted.items():
        span = next(span for span in spans if span[0] <= offset and offset + size <= span[1])
        found[kind] = data[span][offset - span[0] : offset - span[0] + size]
        if len(found[kind]) < size:
            raise _UnreadableError(f"{what} was cut: the {kind} would end at byte {offset + size}")
    return found


def fault_of(place: Location, error: OSError | ValueError) -> str:
    """What is wrong with a shard that could not be read.

    Raises:
        StoreError: if that says nothing of the shard: it is not missing, or its whole folder is.
    """
    if isinstance(error, ValueError) or _is_missing(place, error):
        return f"cannot be read: {reason(error)}"
    raise StoreError(
        f"{place} cannot be read: {reason(error)}. Its samples may be sound, so they are not left"
        " out; what is read goes on, with the same batches, once it can be read again. If it never"
        " can, remove it: what is missing is left out"
    ) from error


def _is_missing(place: Location, error: OSError) -> bool:
    if isinstance(place, Path) and not place.parent.is_dir():
        return False
    return isinstance(error, FileNotFoundError | IsADirectoryError)


def _spans(places: Iterable[Place], gap: int) -> list[tuple[int, int]]:
    """The ranges, start to stop, that hold all places; those no further apart are one."""
    spans: list[tuple[int, int]] = []
    for offset, size in sorted(places):
        if spans and offset - spans[-1][1] <= gap:
            spans[-1] = (spans[-1][0], max(spans[-1][1], offset + size))
        else:
            spans.append((offset, offset + size))
    return spans


def _tar(place: Location) -> _Tar:
    return _LocalTar(place) if isinstance(place, Path) else _RemoteTar(place)


class _LocalTar:
    """A file that is opened when first read, and closed when the last thread lets go of it."""

    gap = -1

    def __init__(self, path: Path) -> None:
        self.place = path

    @cached_property
    def _descriptor(self) -> int:
        # Nobody waits for the other end of a pipe that lies there as a file.
        descriptor = os.open(self.place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, fewer where the file ends before; an index may ask for more."""
        end = min(stop, os.fstat(self._descriptor).st_size)
        return os.pread(self._descriptor, end - start, start) if start < end else b""


class _RemoteTar:
    """A file of an object store."""

    gap = GAP_BYTES

    def __init__(self, place: UPath) -> None:
        self.place = place

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, fewer where the file ends before."""
        return read_range(self.place, start, stop)


_Tar: TypeAlias = _LocalTar | _RemoteTar


def read_samples(
    index: SampleIndex, shard: int, numbers: Iterable[int]
) -> Iterator[RawSample | BadSample]:
    """Read some samples of one shard, in the order given.

    Raises:
        StoreError: as `ShardReader.read`.
    """
    with ShardReader(index) as reader:
        for number in numbers:
            yield reader.read(shard, number)
