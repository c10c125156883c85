"""A flat piece of a named tensor: what every strategy saves and loads its state by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from math import prod
from typing import NamedTuple

from torch import Tensor

WEIGHT = "weight"
"""A parameter; float32 wherever the strategy keeps master weights."""
BUFFER = "buffer"
"""A persistent buffer, of any dtype."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter."""
AVERAGE = "average"
"""A parameter's exponential moving average, float32."""


class Slice(NamedTuple):
    """A contiguous piece of a tensor, as a view onto where it lives."""

    kind: str
    name: str
    """The tensor's name in the recipe's state dict."""
    start: int
    """Elements of the flat tensor before the piece."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    data: Tensor
    """The piece [n]; what is written to it changes the live state."""
    everywhere: bool = False
    """Whether every worker holds the same piece."""

    @property
    def stop(self) -> int:
        """Elements of the flat tensor up to the end of the piece."""
        return self.start + self.data.numel()

    def part(self, start: int, stop: int) -> Slice:
        """The elements of the piece from one place to another, both counted within it."""
        return self._replace(start=self.start + start, data=self.data[start:stop])


def own_share(slices: Iterable[Slice], rank: int, world_size: int) -> Iterator[Slice]:
    """What one worker saves of what it holds, so that all save everything once.

    Of a piece that every worker holds, each saves an equal part. Buffers come from the first one
    alone: a few statistics that, as a set, must be of one worker.
    """
    for piece in slices:
        if not piece.everywhere:
            yield piece
        elif piece.kind != BUFFER:
            count = piece.data.numel()
            own = piece.part(count * rank // world_size, count * (rank + 1) // world_size)
            yield own._replace(everywhere=False)
        elif rank == 0:
            yield piece._replace(everywhere=False)


def to_tensors(slices: Iterable[Slice]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a file of slices holds.

    Returns:
        The pieces by `kind/name@start`, without empty ones, and the shapes of the whole tensors by
        their names, as JSON.
    """
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, str] = {}
    for piece in slices:
        assert piece.data.ndim == 1, piece.name
        assert piece.stop <= prod(piece.shape), piece.name
        if piece.data.numel():
            key = f"{piece.kind}/{piece.name}@{piece.start}"
            assert key not in tensors, key
            tensors[key] = piece.data
            shapes[piece.name] = json.dumps(piece.shape)
    return tensors, shapes


class Address(NamedTuple):
    """Where a stored piece belongs."""

    kind: str
    name: str
    start: int


def parse_key(key: str) -> Address:
    """The address in a key of `to_tensors`.

    Raises:
        ValueError: if it is no such key.
    """
    kind, _, rest = key.partition("/")
    name, _, start = rest.rpartition("@")
    if not (kind and name and start.isdecimal()):
        raise ValueError(f"{key!r} is not `kind/name@start`")
    return Address(kind, name, int(start))


def parse_shape(text: str | None) -> tuple[int, ...]:
    """The shape in a value of `to_tensors`.

    Raises:
        ValueError: if it is no such value.
    """
    try:
        shape = json.loads(text or "")
    except (ValueError, RecursionError):
        shape = None
    if isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape):
        return tuple(shape)
    raise ValueError(f"{text!r} is no shape, a list of sizes")
