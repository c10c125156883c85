"""WebDataset tars, written whole or not at all: equal samples give equal bytes."""

from __future__ import annotations

import io
import tarfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from datamodules.shards.index import Members, ShardEntry, sha256, write_index
from datamodules.shards.records import (
    Sample,
    encode_annotation,
    encode_priors,
    image_extension,
)
from datamodules.storage import atomic_folder


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
