"""The prepared tier: a data set re-encoded once at a smaller size, so that training reads less.

An image of SA-1B (1500 x 2250) at a long side of 1536 has less than half of its bytes and pixels.
What scale jitter loses: at a frame of 1024 and factors from 0.5 to 2, an image of 1536 is enlarged
beyond its own pixels for factors above 1.5, where the original still shows real detail:
(2 - 1.5) / (2 - 0.5), a third of the samples.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from datamodules.decoding.pictures import picture_size
from datamodules.importers.coco_files import key_of
from datamodules.importers.making import SPLITS, MakingPlan
from datamodules.importers.shard_tasks import Fault, Outcome, ShardTask
from datamodules.importers.shrink import shrink_picture, shrink_regions, smaller_size
from datamodules.shards.entries import INDEX_NAME
from datamodules.shards.index import DataIndex
from datamodules.shards.provenance import CARD_NAME, check_ended
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import BadSample, RawSample, Sample, decode_annotation
from datamodules.storage import Location, child, exists, location, read_bytes
from datamodules.vocabulary import Vocabulary

CONVERTER = 1
"""Counts up whenever the same data set becomes other shards."""
VANISHED = "regions too small at the new size"
KEPT = "images that keep their bytes"
VOCABULARY_NAME = "vocabulary.safetensors"


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
    root, sidecar = location(path), None if priors is None else location(priors)
    for folder in (root, sidecar):
        if folder is not None:
            check_ended(folder)
    converter = _Converter(root, sidecar, max_side, quality)
    splits = [split for split in SPLITS if split == "train" or exists(root / split / INDEX_NAME)]
    indexes = {split: converter.index(split) for split in splits}
    card, sidecar_card = _card(root), _card(sidecar) if sidecar else {}
    return MakingPlan(
        source="convert",
        settings={
            "of": card.get("source", "shards"),
            "indexes": {split: index.sha256 for split, index in indexes.items()},
            "max_side": max_side,
            "quality": quality,
            "converter": CONVERTER,
        },
        tasks=[
            ShardTask(split, shard, int(count), (split, shard))
            for split, index in indexes.items()
            for shard, count in enumerate(index.counts)
        ],
        make=converter,
        vocabulary=_vocabulary(root, sidecar),
        priors=str((sidecar_card or card).get("priors", "unknown")),
        figures={"bytes before": sum(_bytes_of(index) for index in indexes.values())},
    )


def _card(folder: Location) -> dict[str, Any]:
    """What `dataset.json` says; nothing where there is none."""
    if not exists(folder / CARD_NAME):
        return {}
    card: dict[str, Any] = orjson.loads(read_bytes(folder / CARD_NAME))
    return card


def _vocabulary(root: Location, sidecar: Location | None) -> Vocabulary | None:
    for folder in (sidecar, root):
        if folder is not None and exists(folder / VOCABULARY_NAME):
            return Vocabulary.load(folder / VOCABULARY_NAME)
    return None


def _bytes_of(index: DataIndex) -> int:
    return int(index.sizes.sum()) + (int(index.sidecar.sizes.sum()) if index.sidecar else 0)


@dataclass(frozen=True)
class _Converter:
    """Makes the samples of one shard."""

    root: Location
    sidecar: Location | None
    max_side: int
    quality: int

    def index(self, split: str) -> DataIndex:
        return DataIndex.load(self.root / split, self.sidecar and self.sidecar / split)

    def __call__(self, work: tuple[str, int]) -> Iterator[Outcome]:
        split, shard = work
        index = self.index(split)
        with ShardReader(index) as reader:
            for number in range(int(index.counts[shard])):
                raw = reader.read(shard, number)
                if isinstance(raw, BadSample):
                    fault = _fault(split, raw, raw.reason)
                    # What cannot be read may be there again, unchanged, next time.
                    yield Outcome(None, faults=[fault], watch={str(index.path(shard)): None})
                else:
                    yield self._outcome(split, raw)

    def _outcome(self, split: str, raw: RawSample) -> Outcome:
        try:
            return self._convert(raw)
        except ValueError as error:
            return Outcome(None, faults=[_fault(split, raw, str(error))])

    def _convert(self, raw: RawSample) -> Outcome:
        annotation = decode_annotation(raw.annotation)
        size = picture_size(raw.image)
        if size != (annotation.height, annotation.width):
            raise ValueError(
                f"the image has {size[1]} x {size[0]} pixels, its annotation says"
                f" {annotation.width} x {annotation.height}"
            )
        image, regions = raw.image, annotation.regions
        priors = None if raw.priors is None else _priors(raw.priors, len(regions))
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


def _fault(split: str, sample: RawSample | BadSample, reason: str) -> Fault:
    return Fault(str(child(Path(split), sample.shard)), sample.key, None, reason)


def _priors(data: bytes, regions: int) -> NDArray[np.float16]:
    """The rows of `KEY.priors.npy`, of whatever width; pickles are refused."""
    rows: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if rows.ndim != 2 or len(rows) != regions or rows.dtype.kind != "f":
        raise ValueError(
            f"the priors have shape {list(rows.shape)} and type {rows.dtype}, the annotation has"
            f" {regions} regions"
        )
    return rows.astype(np.float16)
