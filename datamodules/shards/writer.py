"""WebDataset tars, written whole or not at all: equal samples give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from datamodules.shards.entries import Members, ShardEntry, write_index
from datamodules.shards.records import (
    Sample,
    encode_annotation,
    encode_priors,
    image_extension,
)
from datamodules.shards.tar import TarBuilder
from datamodules.storage import (
    Location,
    atomic_file,
    atomic_folder,
    list_files,
    location,
    make_folder,
    remove_tree,
)


class ShardWriter:
    """Writes samples to `shard-000000.tar`, `shard-000001.tar`, … and their index.

    A context manager: a local folder appears, complete, when the block ends well. In an object
    store every shard appears whole, and the index, without which a folder is no data set, comes
    last. Equal samples give equal bytes, so that the hash of a data set says what is in it.

        with ShardWriter("data/train", samples_per_shard=256) as writer:
            writer.write(sample)

    Args:
        folder: path or URL of the folder to make; it must not hold anything yet.
        samples_per_shard: samples in a tar; the last one may hold fewer.

    Raises:
        ValueError: if the folder holds something already or cannot be written to.
    """

    def __init__(self, folder: str | Location, samples_per_shard: int) -> None:
        self._target = location(folder)
        self._samples_per_shard = samples_per_shard
        self._entries: list[ShardEntry] = []
        self._shard: _OpenShard | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if isinstance(self._target, Path):
            self._folder: Location = self._stack.enter_context(atomic_folder(self._target))
        else:
            self._folder = _empty_folder(self._target)
            self._stack.push(self._clear)
        self._stack.push(self._finish)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish_shard()
            write_index(self._folder, self._entries)
        elif self._shard is not None:
            self._shard.__exit__(kind, error, trace)

    def _clear(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the shards of a data set that does not come about."""
        if kind is not None:
            for entry in self._entries:
                remove_tree(self._folder / entry.name)

    def write(self, sample: Sample) -> None:
        """Append one sample.

        Raises:
            ValueError: if its key is not fit for a tar or is in the shard already, its image is
                neither JPEG nor PNG, or its priors are not one row a region.
            OSError: if it cannot be written.
        """
        if self._shard is not None and len(self._shard) == self._samples_per_shard:
            self._finish_shard()
        if self._shard is None:
            place = self._folder / f"shard-{len(self._entries):06d}.tar"
            self._shard = _OpenShard(place).__enter__()
        self._shard.write(sample)

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self._shard.__exit__(None, None, None)
            self._entries.append(self._shard.entry)
            self._shard = None


def write_shard(folder: str | Location, name: str, samples: Iterable[Sample]) -> ShardEntry:
    """Write one shard, whole or not at all.

    Args:
        folder: path or URL of the folder, which is there.
        name: file name of the tar.
        samples: all its samples, in order.

    Returns:
        The shard's entry for `write_index`.

    Raises:
        ValueError: if a sample is not fit, as `ShardWriter.write` tells.
        OSError: if the shard cannot be written.
    """
    with _OpenShard(location(folder) / name) as shard:
        for sample in samples:
            shard.write(sample)
    return shard.entry


class _OpenShard:
    """A shard that is being written; it appears, whole, when the block ends well."""

    entry: ShardEntry
    """What the index says of it, once it is there."""

    def __init__(self, place: Location) -> None:
        self._name = place.name
        self._file = atomic_file(place)
        self._members: dict[str, Members] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __enter__(self) -> Self:
        self._tar = TarBuilder(self._file.__enter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            size, digest = self._tar.finish()
            self.entry = ShardEntry(self._name, size, digest, list(self._members.values()))
        self._file.__exit__(kind, error, trace)

    def write(self, sample: Sample) -> None:
        self._check(sample)
        key = sample.key
        members = Members(
            key,
            self._tar.append(f"{key}.{image_extension(sample.image)}", sample.image),
            self._tar.append(f"{key}.json", encode_annotation(sample)),
        )
        if sample.priors is not None:
            priors = self._tar.append(f"{key}.priors.npy", encode_priors(sample.priors))
            members = members._replace(priors=priors)
        self._members[key] = members

    def _check(self, sample: Sample) -> None:
        if not sample.key or set(sample.key) & set("./\\\0"):
            raise ValueError(f"the key {sample.key!r} is empty, or holds a dot or a slash")
        if sample.key in self._members:
            raise ValueError(f"the key {sample.key!r} is in {self._name} already")
        if sample.priors is not None and len(sample.priors) != len(sample.regions):
            raise ValueError(
                f"sample {sample.key!r} has {len(sample.regions)} regions"
                f" but {len(sample.priors)} priors"
            )


def _empty_folder(folder: Location) -> Location:
    if list_files(folder):
        raise ValueError(f"{folder} is not empty: choose a new folder")
    make_folder(folder)
    return folder
