"""The prepared tier: a data set re-encoded once at a smaller size, so that training reads less.

An image of SA-1B (1500 x 2250) at a long side of 1536 has less than half of its bytes and pixels.
What scale jitter loses: at a frame of 1024 and factors from 0.5 to 2, an image of 1536 is enlarged
beyond its own pixels for factors above 1.5, where the original still shows real detail:
(2 - 1.5) / (2 - 0.5), a third of the samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from datamodules.decoding.decode import agreed_size
from datamodules.importers.coco_files import key_of
from datamodules.importers.making import MakingPlan
from datamodules.importers.shard_set import ShardSet, read_priors
from datamodules.importers.shard_tasks import Outcome
from datamodules.importers.shrink import shrink_picture, shrink_regions, smaller_size
from datamodules.shards.index import DataIndex
from datamodules.shards.records import RawSample, Sample, decode_annotation
from datamodules.storage import Location

CONVERTER = 1
"""Counts up whenever the same data set becomes other shards."""
VANISHED = "regions too small at the new size"
KEPT = "images that keep their bytes"


def plan_convert(
    path: str | Location, max_side: int, quality: int, priors: str | Location | None = None
) -> MakingPlan:
    """Plan the re-encoding of a data set, one shard for each of its shards.

    Images with a long side above `max_side` are encoded anew; the others keep their bytes. Regions
    are scaled with them, see `shrink_regions`; one that vanishes is dropped with its prior,
    and counted.

    Args:
        path: path or URL of the data set: `train/`, and `val/` if it has one.
        max_side: long side of the new images, in pixels, at most.
        quality: quality of the JPEGs, 1 to 100.
        priors: path or URL of a sidecar whose priors are to be in the new shards.

    Raises:
        ValueError: if the data set or the sidecar is missing, broken or not made to its end.
    """
    data = ShardSet.open(path, priors)
    indexes = data.indexes()
    return MakingPlan(
        source="convert",
        settings={
            "of": data.source,
            "indexes": {split: index.sha256 for split, index in indexes.items()},
            "max_side": max_side,
            "quality": quality,
            "converter": CONVERTER,
        },
        tasks=data.tasks(),
        make=_Converter(data, max_side, quality),
        vocabulary=data.vocabulary(),
        priors=data.priors,
        figures={"bytes before": sum(_bytes_of(index) for index in indexes.values())},
    )


def _bytes_of(index: DataIndex) -> int:
    return int(index.sizes.sum()) + (int(index.sidecar.sizes.sum()) if index.sidecar else 0)


@dataclass(frozen=True)
class _Converter:
    """Makes the samples of one shard."""

    data: ShardSet
    max_side: int
    quality: int

    def __call__(self, work: tuple[str, int]) -> Iterator[Outcome]:
        return self.data.outcomes(work, self._convert)

    def _convert(self, raw: RawSample) -> Outcome:
        annotation = decode_annotation(raw.annotation)
        size = agreed_size(raw.image, annotation)
        image, regions = raw.image, annotation.regions
        priors = None if raw.priors is None else read_priors(raw.priors, len(regions))
        new_size = smaller_size(size, self.max_side)
        left_out, figures = Counter[str](), Counter[str]()
        if new_size == size:
            figures[KEPT] += 1
        else:
            image = shrink_picture(raw.image, size, new_size, self.quality)
            smaller = shrink_regions(regions, size, new_size)
            kept = [number for number, region in enumerate(smaller) if region is not None]
            left_out[VANISHED] += len(regions) - len(kept)
            regions = [region for region in smaller if region is not None]
            priors = None if priors is None else priors[kept]
        sample = Sample(key_of(raw.key), image, new_size[1], new_size[0], regions, priors)
        return Outcome(sample, left_out, figures=figures)
