"""A checkpoint's `part-RRRRR.safetensors`: the slices that one worker has saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tap_platform.runs.checkpoints import CorruptCheckpointError
from tap_platform.training.checkpoint_parts import part_name
from tap_platform.training.slices.slice import Address, parse_key, parse_shape


def part_paths(folder: Path) -> list[Path]:
    """The files of all workers.

    Raises:
        CorruptCheckpointError: if there is none.
    """
    paths = sorted(folder.glob("part-*.safetensors"))
    if not paths:
        raise CorruptCheckpointError(f"{folder} holds no state: expected {part_name(0)} and on")
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
        """
        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
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
