"""A checkpoint's tensors, joined from the slices of whatever workers have saved them."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from tap_platform.runs.checkpoints import CorruptCheckpointError
from tap_platform.training.slices.parts import Part, StoredPiece, part_paths
from tap_platform.training.slices.slice import Slice


class SlicedState:
    """Reads tensors, or pieces of them, by name.

    Which workers have written the files, and by which strategy, does not matter. Nothing is read
    before it is asked for, and nothing but safetensors is.
    """

    def __init__(self, folder: Path) -> None:
        """Look at what a checkpoint holds.

        Args:
            folder: the checkpoint, `…/step-N`.

        Raises:
            CorruptCheckpointError: if a file is no part of a checkpoint, or two do not fit
                together; the message names the file, the tensor and what is expected.
        """
        self.folder = folder
        self._parts = {path: Part(path) for path in part_paths(folder)}
        self._stored: dict[tuple[str, str], list[StoredPiece]] = defaultdict(list)
        for part in self._parts.values():
            for piece in part.pieces():
                self._stored[piece.address.kind, piece.address.name].append(piece)
        for pieces in self._stored.values():
            pieces.sort(key=lambda piece: piece.address.start)
            _check(pieces)

    def names(self, kind: str) -> set[str]:
        """The tensors of a kind."""
        return {name for stored_kind, name in self._stored if stored_kind == kind}

    def tensor(self, kind: str, name: str) -> Tensor:
        """A whole tensor, on the CPU, in the dtype that it was saved in.

        Raises:
            CorruptCheckpointError: if any element of it is missing.
        """
        shape = self._pieces(kind, name)[0].shape
        self._check_covered(kind, name, 0, prod(shape))
        first = self._pieces(kind, name)[0]
        dtype = self._parts[first.path].read(first.key, 0, 0).dtype
        whole = torch.empty(prod(shape), dtype=dtype)
        self.read_into(Slice(kind, name, 0, shape, whole))
        return whole.view(shape)

    @torch.no_grad()
    def read_into(self, piece: Slice) -> None:
        """Fill a slice.

        Raises:
            CorruptCheckpointError: if any element of it is missing.
            ValueError: if the tensor has another shape, or holds integers instead of numbers with
                a fraction or the other way round.
        """
        kind, name = piece.kind, piece.name
        stored = self._pieces(kind, name)
        if stored[0].shape != piece.shape:
            raise ValueError(
                f"{stored[0].path}: {kind} {name} has the shape {list(stored[0].shape)}: expected"
                f" {list(piece.shape)}, that of the job's model"
            )
        self._check_covered(kind, name, piece.start, piece.stop)
        for each in stored:
            start = max(each.address.start, piece.start)
            stop = min(each.stop, piece.stop)
            if start < stop:
                elements = self._read(each, start, stop)
                if elements.is_floating_point() != piece.data.is_floating_point():
                    raise ValueError(
                        f"{each.path}: {kind} {name} is {elements.dtype}: expected"
                        f" {piece.data.dtype}"
                    )
                piece.data[start - piece.start : stop - piece.start].copy_(elements)

    def _read(self, piece: StoredPiece, start: int, stop: int) -> Tensor:
        """Elements of a tensor, counted from its beginning."""
        skipped = piece.address.start
        return self._parts[piece.path].read(piece.key, start - skipped, stop - skipped)

    def _pieces(self, kind: str, name: str) -> list[StoredPiece]:
        if (kind, name) not in self._stored:
            raise CorruptCheckpointError(f"{self.folder} holds no {kind} {name}")
        return self._stored[kind, name]

    def _check_covered(self, kind: str, name: str, start: int, stop: int) -> None:
        """Make sure that the pieces, which do not overlap, leave no gap."""
        reached = start
        for piece in self._pieces(kind, name):
            if piece.address.start <= reached:
                reached = max(reached, piece.stop)
        if reached < stop:
            raise CorruptCheckpointError(
                f"{self.folder}: {kind} {name} lacks elements from {reached} on: expected them up"
                f" to {stop} in some part-*.safetensors"
            )


def _check(pieces: list[StoredPiece]) -> None:
    """Make sure that pieces, in order, can be of one tensor."""
    first = pieces[0]
    expected = first.shape
    reached = 0
    for piece in pieces:
        where = f"{piece.path}: {piece.key}"
        if piece.shape != expected:
            raise CorruptCheckpointError(
                f"{where} is of the shape {list(piece.shape)}: expected {list(expected)}, as in"
                f" {first.path.name}"
            )
        if piece.address.start < reached:
            raise CorruptCheckpointError(
                f"{where} begins before {reached}, where the piece before it ends"
            )
        if piece.stop > prod(expected):
            raise CorruptCheckpointError(
                f"{where} ends at {piece.stop}: expected {prod(expected)} elements at the most,"
                f" for the shape {list(expected)}"
            )
        reached = piece.stop
