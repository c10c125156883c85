"""The phrases of a data set, read without its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from datamodules.decoding.phrases import read_phrases
from datamodules.shards.index import SampleIndex
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import BadSample, read_annotation
from datamodules.stream.ordered import in_order
from datamodules.stream.reading import REMOTE_READS, is_remote
from tap_platform.config.stream import StreamConfig

_Place: TypeAlias = tuple[int, int]
"""Number of a shard, and of a sample in it."""


def training_phrases(index: SampleIndex, config: StreamConfig) -> Iterator[str]:
    """Every usable phrase of a split, in the order of shards, samples and regions.

    Only annotations are read, one after another, and none is kept; what a phrase is, training and
    this agree on (`read_phrases`). An annotation that cannot be understood is passed over with all
    of its regions. Phrases of regions that training does not draw are among them.

    Args:
        index: the samples.
        config: the data section of a job, which tells what counts as a phrase.

    Raises:
        StoreError: if a shard is there, as far as can be told, and cannot be read.
    """
    for annotation in _annotations(index):
        try:
            regions = read_annotation(annotation).regions
            phrases = read_phrases(regions, config.phrases)
        except ValueError:
            continue
        for of_region in phrases.of_regions:
            yield from of_region


def _annotations(index: SampleIndex) -> Iterator[bytes]:
    """The annotations that can be read; in threads, ahead, where they lie in an object store."""
    places = (
        (shard, number) for shard, count in enumerate(index.counts) for number in range(count)
    )
    with ShardReader(index) as reader:

        def read(place: _Place) -> bytes | BadSample:
            return reader.read_annotation(*place)

        found: Iterator[bytes | BadSample] = map(read, places)
        if is_remote(index):
            found = in_order(read, places, REMOTE_READS, REMOTE_READS, "phrases")
        yield from (each for each in found if isinstance(each, bytes))
