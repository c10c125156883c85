"""Priors beside the shards: tars of the same names, keys and order, which hold `KEY.priors.npy`.

So priors of terabytes join images of terabytes without rewriting them. A folder of sidecar shards
has an index of its own, which names the index of the samples that its priors belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.shards.entries import Members, ShardEntry, write_index
from datamodules.shards.index import DataIndex, check_same_samples
from datamodules.shards.records import encode_priors
from datamodules.shards.tar import TarBuilder
from datamodules.storage import Location, atomic_file


def write_sidecar(
    folder: Location,
    name: str,
    keys: Sequence[str],
    priors: Iterable[NDArray[np.floating[Any]] | None],
) -> ShardEntry:
    """Write one sidecar shard in one step; equal content gives equal bytes.

    Args:
        folder: the folder of the sidecar shards; it is there.
        name: file name of the shard that the priors belong to.
        keys: keys of all its samples, in its index's order.
        priors: float16 `[regions, D]` of each sample; None where there are none to give.

    Returns:
        The shard's entry for `write_sidecar_index`.

    Raises:
        OSError: if it cannot be written.
    """
    with atomic_file(folder / name) as file:
        tar = TarBuilder(file)
        members = [
            Members(key)
            if rows is None
            else Members(key, priors=tar.append(f"{key}.priors.npy", encode_priors(rows)))
            for key, rows in zip(keys, priors, strict=True)
        ]
        size, sha256 = tar.finish()
    return ShardEntry(name, size, sha256, members)


def write_sidecar_index(folder: Location, main: DataIndex, entries: Sequence[ShardEntry]) -> None:
    """Write the index of a folder of sidecar shards, once there is one for every shard.

    Args:
        folder: the folder of the sidecar shards.
        main: the index of the samples that the priors belong to.
        entries: what `write_sidecar` gave for each shard, in the order of `main`.

    Raises:
        ValueError: if the shards or their keys are not those of `main`; nothing is written then.
        OSError: if the index cannot be written.
    """
    shards = [(entry.name, [each.key.encode() for each in entry.members]) for entry in entries]
    check_same_samples(main, folder, shards)
    write_index(folder, entries, main.sha256)
