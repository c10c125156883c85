"""A checkpoint's `part-*.safetensors`: the slices that one worker has saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tap_platform.runs.checkpoint_manifest import OUTAGES
from tap_platform.runs.checkpoints import MANIFEST, CorruptCheckpointError, read_manifest
from tap_platform.training.slices.slice import Address, parse_key, parse_shape


def part_paths(folder: Path) -> list[Path]:
    """The files of all workers: those of the manifest, where there is one.

    What else lies in the folder is of a worker that was late, and is not read.

    Raises:
        CorruptCheckpointError: if there is none, or the manifest is not what was committed.
    """
    if (folder / MANIFEST).exists():
        there = [folder / name for name in read_manifest(folder).files]
    else:
        there = list(folder.iterdir())
    paths = sorted(path for path in there if path.match("part-*.safetensors"))
    if not paths:
        raise CorruptCheckpointError(f"{folder} holds no state: expected part-*.safetensors")
    return paths


class StoredPiece(NamedTuple):
    """A slice in a file."""

    path: Path
    key: str
    address: Address
    shape: tuple[int, ...]
    """Of the whole tensor."""
    stop: int
    """Elements of the flat tensor up to the end of the piece."""


class Part:
    """One file, mapped into memory: only what is asked for is read."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            CorruptCheckpointError: if it is not safetensors.
            OSError: if the store is down.
        """
        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            if isinstance(error, OSError) and error.errno in OUTAGES:
                raise
            raise CorruptCheckpointError(f"{path} is no safetensors file: {error}") from error

    def pieces(self) -> Iterator[StoredPiece]:
        """What the file holds, as its header tells.

        Raises:
            CorruptCheckpointError: if a tensor is no slice of the shape that it is told to be of.
        """
        shapes = self._file.metadata() or {}
        for key in sorted(self._file.keys()):
            try:
                address = parse_key(key)
                shape = parse_shape(shapes.get(address.name))
            except ValueError as error:
                raise CorruptCheckpointError(f"{self.path}: {error}") from error
            found = self._file.get_slice(key).get_shape()
            if len(found) != 1:
                raise CorruptCheckpointError(
                    f"{self.path}: {key} has the shape {found}: expected one dimension"
                )
            yield StoredPiece(self.path, key, address, shape, address.start + found[0])

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """Elements of a piece, from one place to another, both counted within it."""
        elements: Tensor = self._file.get_slice(key)[start:stop]
        return elements
