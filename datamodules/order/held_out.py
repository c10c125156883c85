"""Which held-out samples are looked at, and by whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.order.draws import sample_seeds
from datamodules.order.plan import PlannedSample


def evaluation_samples(
    counts: Sequence[int] | NDArray[np.int64],
    rank: int,
    world_size: int,
    seed: int,
    images: int | None = None,
) -> Iterator[PlannedSample]:
    """Samples of a held-out set, each once, spread evenly over all of it.

    Of those that are chosen, rank r takes the numbers r, r + world_size and so on.

    Args:
        counts: samples of each shard.
        rank: number of the worker.
        world_size: number of workers; any number will do, ranks may differ by one sample.
        seed: seed of the samples' draws, which are the same at every evaluation.
        images: samples in all, at most as many as there are; None takes every one.
    """
    ends = np.cumsum(np.asarray(counts, np.int64))
    total = int(ends[-1]) if len(ends) else 0
    images = total if images is None else images
    for chosen in range(rank, images, world_size):
        position = chosen * total // images
        shard = int(np.searchsorted(ends, position, side="right"))
        number = position - int(ends[shard]) + int(counts[shard])
        draws = int(sample_seeds(seed, 0, np.array([position]))[0])
        yield PlannedSample(0, 0, position, shard, number, draws)
