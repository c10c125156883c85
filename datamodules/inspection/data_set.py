"""A data set as its parts, folders of shards with an index each, and a spread over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from datamodules.shards.entries import INDEX_NAME
from datamodules.shards.index import DataIndex
from datamodules.shards.provenance import check_ended
from datamodules.storage import Location, exists, location

SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class Part:
    """One folder of shards."""

    name: str
    """`train`, `val`, or the folder's own name where it stands alone."""
    folder: Location
    inside: str
    """Where it lies in the data set's folder; empty if it is that folder."""
    index: DataIndex


class Place(NamedTuple):
    """Where a sample lies: its part, shard and number in the shard."""

    part: Part
    shard: int
    number: int


def open_parts(path: str | Location) -> tuple[Part, ...]:
    """Open a data set's folder, or one folder of shards.

    Args:
        path: folder with `train/` and `val/`, one of them at least, or a folder of shards; a URL
            will do.

    Raises:
        ValueError: if neither is there, its making has not ended, or an index is missing or broken.
    """
    root = location(path)
    check_ended(root)
    names = [name for name in SPLITS if exists(root / name / INDEX_NAME)]
    if names:
        return tuple(Part(name, root / name, name, DataIndex.load(root / name)) for name in names)
    return (Part(root.name or "shards", root, "", DataIndex.load(root)),)


def with_priors(part: Part, priors: str | Location) -> Part:
    """A part whose priors lie in a sidecar.

    Args:
        part: a part of the data set.
        priors: sidecar folder, laid out as the data set is.

    Raises:
        ValueError: if the sidecar is missing or broken, or of other samples.
    """
    beside = location(priors)
    folder = beside / part.inside if part.inside else beside
    return replace(part, index=DataIndex.load(part.folder, folder))


def spread(total: int, count: int | None) -> Sequence[int]:
    """Positions spread evenly over `total` samples, always the same: one of each `count`-th part.

    Where in its part a position lies is drawn by chance with a fixed seed, so that what repeats in
    the order of the samples is not met in step. None, or a count that is too large, gives all.
    """
    if count is None or count >= total:
        return range(total)
    edges = np.arange(count + 1) * total // count
    within = np.random.default_rng(0).random(count) * np.diff(edges)
    chosen: list[int] = (edges[:-1] + within.astype(np.int64)).tolist()
    return chosen


def place_of(parts: Sequence[Part], position: int) -> Place:
    """The sample at a position of all parts, one after another."""
    for part in parts:
        if position < len(part.index):
            starts = part.index.starts
            shard = int(np.searchsorted(starts, position, side="right")) - 1
            return Place(part, shard, position - int(starts[shard]))
        position -= len(part.index)
    raise IndexError(f"no sample at position {position} after the last")
