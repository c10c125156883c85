"""Counter-based randomness: every draw is a function of integers, and nothing has a state.

The hash is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
2014): a draw depends on no library version, rank, worker or order of calls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_INT63 = np.uint64(0x7FFFFFFFFFFFFFFF)


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash each value to 64 well mixed bits.

    Args:
        values: uint64 of any shape with at least one axis.
    """
    state = values + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def _mix(*keys: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash a sequence of non-negative integers, or of arrays of them; the order matters."""
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = splitmix64(state ^ np.asarray(key).astype(np.uint64))
    return state


def permutation(count: int, *keys: int) -> NDArray[np.int64]:
    """The numbers 0 to `count - 1` in an order that `keys` fix.

    Returns:
        int64 `[count]`; all orders are equally likely (up to hash collisions, 1 in 2^64 a pair).
    """
    hashes = splitmix64(_mix(*keys) + np.arange(count, dtype=np.uint64) * _GOLDEN)
    return np.argsort(hashes, kind="stable")


def sample_seeds(seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """`sample_seed` of many positions at once."""
    return (_mix(seed, epoch, positions) & _INT63).astype(np.int64)


def sample_seed(seed: int, epoch: int, position: int) -> int:
    """The seed of every draw made for one sample.

    Args:
        seed: seed of the data stream.
        epoch: number of the pass over the data.
        position: number of the sample in the epoch's canonical order.

    Returns:
        An integer in [0, 2^63).
    """
    return int(sample_seeds(seed, epoch, np.array([position]))[0])


def derived_seed(seed: int, number: int) -> int:
    """The seed of part `number` of what `seed` governs, in [0, 2^63): parts draw on their own."""
    return int((_mix(seed, number) & _INT63)[0])


def generator(seed: int, stream: int) -> np.random.Generator:
    """A numpy generator for one purpose (`stream`) of one sample (`seed`), both non-negative."""
    return np.random.Generator(np.random.Philox(key=[seed, stream]))
