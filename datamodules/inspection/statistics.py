"""What is in a data set, from its indexes and the annotations of a spread of its samples.

No image is read: the annotations tell sizes and regions, and the index tells which samples have
priors. Shards, samples and bytes are exact; what regions hold is counted in the samples read, and
told for the whole in proportion where they are not all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.decoding.phrases import usable_phrases
from datamodules.inspection.data_set import Part, Place, place_of, spread
from datamodules.inspection.histogram import (
    Histogram,
    aspect_ratios,
    shares_by_half_decades,
    whole_numbers,
)
from datamodules.shards.records import Annotation, decode_annotation
from datamodules.storage import read_range

TOP_CATEGORIES = 20
"""Categories that a report lists."""
_THREADS = 8
_AT_ONCE = 256


@dataclass
class PartCounts:
    """One part in numbers. Those of regions are of the samples read only."""

    name: str
    shards: int
    samples: int
    shard_bytes: int
    member_bytes: dict[str, int]
    """Bytes of `images`, `annotations` and `priors`."""
    samples_with_priors: int
    read: int = 0
    """Samples whose annotations were read."""
    unreadable: int = 0
    """Those among them that cannot be."""
    regions: Counter[str] = field(default_factory=Counter)
    """`regions`, those `with masks`, `with category`, `with phrases`, `with priors`; `phrases` that
    are usable, and `phrases left out` because they are blank or endless."""

    @property
    def scale(self) -> float:
        """What a number of the samples read is multiplied by to tell of all."""
        return self.samples / self.read if self.read else 0.0


@dataclass
class Statistics:
    """A data set in numbers."""

    path: str
    parts: list[PartCounts]
    regions: Histogram = field(
        default_factory=lambda: Histogram(
            "regions an image", whole_numbers([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
        )
    )
    areas: Histogram = field(
        default_factory=lambda: Histogram(
            "area, share of the image", shares_by_half_decades(5), are_shares=True
        )
    )
    words: Histogram = field(
        default_factory=lambda: Histogram(
            "words a phrase", whole_numbers([*range(11), 11, 16, 21, 31])
        )
    )
    sides: Histogram = field(
        default_factory=lambda: Histogram(
            "long side, pixels",
            whole_numbers([1, 128, 256, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096]),
        )
    )
    aspects: Histogram = field(
        default_factory=lambda: Histogram("width to height", aspect_ratios())
    )
    categories: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    """Images of each size, `WIDTH x HEIGHT`."""

    @property
    def samples(self) -> int:
        """Samples of the data set."""
        return sum(part.samples for part in self.parts)

    @property
    def read(self) -> int:
        """Samples whose annotations were read."""
        return sum(part.read for part in self.parts)

    @property
    def is_estimate(self) -> bool:
        """Whether only some of the samples were read."""
        return self.read < self.samples

    @property
    def histograms(self) -> tuple[Histogram, ...]:
        """In reading order."""
        return self.regions, self.areas, self.words, self.sides, self.aspects

    def as_dict(self) -> dict[str, Any]:
        """For machines; numbers of regions are of the samples read."""
        return {
            "path": self.path,
            "samples": self.samples,
            "samples_read": self.read,
            "estimated": self.is_estimate,
            "parts": {
                part.name: {
                    "shards": part.shards,
                    "samples": part.samples,
                    "bytes": {"shards": part.shard_bytes, **part.member_bytes},
                    "samples_with_priors": part.samples_with_priors,
                    "samples_read": part.read,
                    "unreadable": part.unreadable,
                    "in_samples_read": dict(part.regions),
                }
                for part in self.parts
            },
            "histograms": {each.title: each.as_dict() for each in self.histograms},
            "categories": dict(self.categories.most_common()),
            "image_sizes": dict(self.sizes.most_common(TOP_CATEGORIES)),
        }


def gather(
    path: str,
    parts: Sequence[Part],
    samples: int | None = None,
    show: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Count what a data set holds.

    Args:
        path: what to call it.
        parts: its folders of shards.
        samples: annotations to read, spread over all parts; None reads every one.
        show: called with (annotations read, annotations to read) now and then.

    Raises:
        OSError: if a shard cannot be reached at all.
    """
    counts = {part.name: _counts(part) for part in parts}
    statistics = Statistics(path, list(counts.values()))
    chosen = spread(statistics.samples, samples)
    for done, (place, annotation) in enumerate(_annotations(parts, chosen), start=1):
        part = counts[place.part.name]
        part.read += 1
        if annotation is None:
            part.unreadable += 1
        else:
            members = place.part.index.members(place.shard, place.number)
            _add(statistics, part, annotation, has_priors=members.priors[0] >= 0)
        if show is not None and (done % _AT_ONCE == 0 or done == len(chosen)):
            show(done, len(chosen))
    return statistics


def _counts(part: Part) -> PartCounts:
    index = part.index
    places = index.samples["members"]
    priors = (index.sidecar or index).samples["members"][:, 2]
    sizes = [int(each[:, 1].sum()) for each in (places[:, 0], places[:, 1], priors)]
    return PartCounts(
        name=part.name,
        shards=len(part.index.names),
        samples=len(part.index),
        shard_bytes=int(part.index.sizes.sum()),
        member_bytes=dict(zip(("images", "annotations", "priors"), sizes, strict=True)),
        samples_with_priors=int(np.count_nonzero(priors[:, 0] >= 0)),
    )


def _annotations(
    parts: Sequence[Part], positions: Sequence[int]
) -> Iterator[tuple[Place, Annotation | None]]:
    """The annotations at some positions, in their order; None where one cannot be read."""
    with ThreadPoolExecutor(_THREADS, "annotations") as pool:
        for start in range(0, len(positions), _AT_ONCE):
            places = [place_of(parts, each) for each in positions[start : start + _AT_ONCE]]
            yield from zip(places, pool.map(_annotation, places), strict=True)


def _annotation(place: Place) -> Annotation | None:
    index = place.part.index
    offset, size = index.members(place.shard, place.number).annotation
    if offset < 0:
        return None
    try:
        found = decode_annotation(read_range(index.path(place.shard), offset, offset + size))
    except (OSError, ValueError):
        return None
    return found if min(found.width, found.height) > 0 else None


def _add(
    statistics: Statistics, part: PartCounts, annotation: Annotation, *, has_priors: bool
) -> None:
    regions = annotation.regions
    stated = sum(len(region.phrases) for region in regions)
    usable = [usable_phrases(region.phrases) for region in regions]
    phrases = [phrase for of_region in usable for phrase in of_region]
    names = [region.category for region in regions if region.category is not None]
    part.regions.update(
        {
            "regions": len(regions),
            "with masks": sum(region.segmentation is not None for region in regions),
            "with category": len(names),
            "with phrases": sum(map(bool, usable)),
            "with priors": len(regions) if has_priors else 0,
            "phrases": len(phrases),
            "phrases left out": stated - len(phrases),
        }
    )
    pixels = annotation.width * annotation.height
    statistics.regions.add([len(regions)])
    statistics.areas.add([region.area / pixels for region in regions])
    statistics.words.add([len(phrase.split()) for phrase in phrases])
    statistics.sides.add([max(annotation.width, annotation.height)])
    statistics.aspects.add([annotation.width / annotation.height])
    statistics.categories.update(names)
    statistics.sizes[f"{annotation.width} x {annotation.height}"] += 1
