"""A data set labelled anew: the same images to the byte, the same regions, and their masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datamodules.decoding.decode import agreed_size
from datamodules.decoding.pictures import decode_picture
from datamodules.importers.building import vocabulary_hash
from datamodules.importers.coco_files import key_of
from datamodules.importers.making import MakingPlan
from datamodules.importers.shard_set import ShardSet, read_priors
from datamodules.importers.shard_tasks import Outcome
from datamodules.inspection.data_set import Part
from datamodules.inspection.statistics import gather
from datamodules.labels.masks import MaskRule, Segmenter
from datamodules.shards.records import RawSample, Sample, decode_annotation
from datamodules.vocabulary import Vocabulary

SOURCE = "label"
LABELLER = 1
"""Counts up whenever the same model gives other shards."""
LOOKED_AT = 256
"""Images, spread over the set, that nearly always tell whether there is anything to do."""


@dataclass(frozen=True)
class Labelling:
    """What is labelled, and how."""

    data: ShardSet
    rule: MaskRule
    model: dict[str, Any]
    """All that the masks depend on besides, as JSON: the weights, the kind of device."""
    vocabulary: Vocabulary | None
    """The concepts to write beside the shards."""

    def settings(self) -> dict[str, Any]:
        """All that the bytes of the new data set depend on."""
        vocabulary = self.vocabulary
        return {
            "of": self.data.source,
            "indexes": {split: each.sha256 for split, each in self.data.indexes().items()},
            **self.model,
            "min_iou": self.rule.min_iou,
            "overwrite_masks": self.rule.overwrite,
            "vocabulary": vocabulary and vocabulary_hash(vocabulary),
            "labeller": LABELLER,
        }

    def plan(self, segmenter: Segmenter) -> MakingPlan:
        """One shard of the new data set for each of the old one.

        Args:
            segmenter: who draws the masks.
        """
        return MakingPlan(
            source=SOURCE,
            settings=self.settings(),
            tasks=self.data.tasks(),
            make=_Labeller(self.data, self.rule, segmenter),
            vocabulary=self.vocabulary,
            priors=self.data.priors,
        )


def check_work(data: ShardSet, overwrite: bool) -> None:
    """Refuse a data set in which there is nothing to label.

    Raises:
        ValueError: if it has no region, or every region has a mask that is not to be overwritten.
    """
    for samples in (LOOKED_AT, None):
        regions = _region_counts(data, samples)
        if regions["regions"] > (0 if overwrite else regions["with masks"]):
            return
    if not regions["regions"]:
        raise ValueError(f"{data.root} holds no region: labelling draws masks for boxes that exist")
    raise ValueError(
        f"nothing to do: every one of the {regions['regions']:,} regions of {data.root} has a mask;"
        " --overwrite-masks draws them anew"
    )


def _region_counts(data: ShardSet, samples: int | None) -> Counter[str]:
    parts = [Part(name, data.root / name, name, each) for name, each in data.indexes().items()]
    found = gather(str(data.root), parts, samples).parts
    return sum((part.regions for part in found), Counter[str]())


@dataclass(frozen=True)
class _Labeller:
    """Makes the samples of one shard."""

    data: ShardSet
    rule: MaskRule
    segmenter: Segmenter

    def __call__(self, work: tuple[str, int]) -> Iterator[Outcome]:
        return self.data.outcomes(work, self._label)

    def _label(self, raw: RawSample) -> Outcome:
        annotation = decode_annotation(raw.annotation)
        size = agreed_size(raw.image, annotation)
        regions, counts = annotation.regions, Counter[str]()
        asked = self.rule.asked(annotation, counts)
        if asked.numbers:
            pixels = decode_picture(raw.image, size, needed=size)
            masks = self.segmenter.segment(pixels, asked.boxes)
            regions = self.rule.labelled(regions, asked, masks, counts)
        priors = None if raw.priors is None else read_priors(raw.priors, len(regions))
        key, (height, width) = key_of(raw.key), size
        sample = Sample(key, raw.image, width, height, regions, priors)
        return Outcome(sample, figures=+counts)
