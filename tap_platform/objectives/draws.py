"""Random numbers as a pure function of seeds: no state, the same on every device.

The functions follow splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014). Output number i of a generator in state s is `mix(s + (i + 1) * GOLDEN)`. A
stream of a seed is the generator whose state is output number `stream` of the seed's own generator,
so draws of different streams, and of different seeds, are independent. Since a draw depends on its
own seed only, it does not change when samples move to other batches or workers.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_FACTOR = 0x94D049BB133111EB - 2**64
_REGION_STREAM = -1


def uniform(seeds: Tensor, count: int, stream: int) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24.

    Args:
        seeds: int64 [...].
        count: numbers to draw for each seed.
        stream: which of a seed's independent sequences to draw from, 0 or above.

    Returns:
        float32 [..., count], bit-identical on every device.
    """
    counters = torch.arange(count, device=seeds.device)
    bits = _output(_stream(seeds, stream).unsqueeze(-1), counters)
    return _shift_right(bits, 40).float() * 2.0**-24


def normal(seeds: Tensor, count: int, stream: int) -> Tensor:
    """Standard normal numbers, float32 [..., count], within about 5.3 of zero.

    Takes its arguments as `uniform` does; equal across devices up to rounding.
    """
    smallest = 2.0**-24
    return torch.special.ndtri(uniform(seeds, count, stream).clamp(min=smallest))


def region_seeds(seeds: Tensor, image_index: Tensor) -> Tensor:
    """A seed for each region, from its image's seed and its slot among that image's regions.

    Args:
        seeds: int64 [B], one for each image.
        image_index: int64 [M], ascending: the image of each region.

    Returns:
        int64 [M].
    """
    first_of_image = torch.searchsorted(image_index, image_index)
    slots = torch.arange(len(image_index), device=image_index.device) - first_of_image
    return _output(_stream(seeds, _REGION_STREAM)[image_index], slots)


def _stream(seeds: Tensor, stream: int) -> Tensor:
    """States of the generators that draw a stream of these seeds."""
    return _output(seeds, torch.full_like(seeds, stream))


def _output(state: Tensor, number: Tensor) -> Tensor:
    """Output `number` of the splitmix64 generators in these states."""
    bits = state + (number + 1) * _GOLDEN
    bits = (bits ^ _shift_right(bits, 30)) * _FIRST_FACTOR
    bits = (bits ^ _shift_right(bits, 27)) * _SECOND_FACTOR
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """A logical shift: torch shifts int64 arithmetically, so the copied signs are masked away."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
