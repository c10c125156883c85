"""Samples decoded in threads, in order, with the bad ones counted."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.decode import BadSampleError, DecodedSample, Frame, decode_sample
from datamodules.shards.records import BadSample
from datamodules.stream.ordered import in_order
from datamodules.stream.packing import PackedSample, unpack
from datamodules.stream.quarantine import Quarantine
from datamodules.stream.reading import SeededSample
from datamodules.stream.slots import DecodedGroup, Slots
from tap_platform.config.stream import StreamConfig

NOT_FINITE = "made the loss not finite"
"""Why a sample is bad that training has shown to be so."""


@dataclass(frozen=True)
class SampleDecoder:
    """Decodes one sample: a pure function, in any process."""

    config: StreamConfig
    frame: Frame
    concepts: Mapping[str, int]
    """Number of each name of the vocabulary."""
    training: bool
    """Whether the scale is jittered."""
    left_out: frozenset[str] = frozenset()
    """Keys of samples that are bad, as training has shown."""

    def decode(
        self,
        seeded: SeededSample,
        pixels: NDArray[np.uint8] | None = None,
        masks: NDArray[np.bool_] | None = None,
    ) -> DecodedSample | BadSample:
        """Decode a sample, into a slot where one is given, or tell why it cannot be."""
        sample = seeded.sample
        if isinstance(sample, BadSample):
            return sample
        if sample.key in self.left_out:
            return BadSample(sample.shard, sample.key, NOT_FINITE)
        if isinstance(sample, PackedSample):
            return unpack(sample, self.frame, pixels, masks)
        try:
            return decode_sample(
                sample,
                seeded.seed,
                self.config,
                self.frame,
                self.concepts,
                training=self.training,
                pixels=pixels,
                masks=masks,
            )
        except BadSampleError as error:
            return BadSample(sample.shard, sample.key, str(error))


class _Placed(NamedTuple):
    """A sample and the slot that it is decoded into."""

    slots: Slots
    place: int
    seeded: SeededSample


class _Decoded(NamedTuple):
    slots: Slots
    result: DecodedSample | BadSample


class Decoder:
    """Decodes a stream of samples batch by batch, in threads, and keeps count of the bad ones."""

    def __init__(
        self,
        config: StreamConfig,
        frame: Frame,
        concepts: Mapping[str, int],
        quarantine: Quarantine,
        *,
        training: bool,
    ) -> None:
        self.config = config
        self.frame = frame
        self.quarantine = quarantine
        self.samples = SampleDecoder(config, frame, concepts, training, quarantine.left_out)

    def groups(
        self, samples: Iterable[SeededSample], sizes: Sequence[int], turns: int = 1
    ) -> Generator[DecodedGroup]:
        """Decode in groups of `sizes` samples, in this order, `turns` times over.

        Bad samples are counted in the order of the samples, whichever thread meets them.

        Args:
            samples: as many as the groups take together.
            sizes: samples of each group of a turn; a group may be without any.
            turns: how often the sizes come.

        Raises:
            TooManyBadSamplesError: as `Quarantine.bad`.
        """
        threads = self.config.decode_threads
        ahead = max(sizes) + threads
        placed = self._placed(samples, _repeated(sizes, turns))
        with closing(in_order(self._decode, placed, threads, ahead, "decode")) as decoded:
            for size in _repeated(sizes, turns):
                group = list(islice(decoded, size))
                for _, result in group:
                    self.quarantine.count(result)
                slots = group[0].slots if group else self._slots(0)
                yield DecodedGroup(slots, [result for _, result in group])

    def _placed(self, samples: Iterable[SeededSample], sizes: Iterable[int]) -> Iterator[_Placed]:
        following = iter(samples)
        for size in sizes:
            slots = self._slots(size)
            for place, seeded in enumerate(islice(following, size)):
                yield _Placed(slots, place, seeded)

    def _slots(self, size: int) -> Slots:
        return Slots.make(size, self.frame, self.config.regions_per_image)

    def _decode(self, placed: _Placed) -> _Decoded:
        slots, place, seeded = placed
        return _Decoded(slots, self.samples.decode(seeded, slots.pixels[place], slots.masks[place]))


def _repeated(sizes: Sequence[int], turns: int) -> Iterator[int]:
    return chain.from_iterable(repeat(sizes, turns))
