"""COCO-format folders: masks with categories, as polygons or run-length encoded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from datamodules.importers.building import (
    Fault,
    ImageRecord,
    ImportPlan,
    LeftOut,
    splits_of,
    vocabulary_hash,
)
from datamodules.importers.coco_files import (
    CocoFolder,
    CocoImage,
    concept_name,
    read_coco,
)
from datamodules.importers.coco_regions import region_of
from datamodules.shards.records import Region
from datamodules.storage import location
from datamodules.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tap_platform.config.sources import CocoSource

IMPORTER = 2
"""Counts up whenever the same folder gives other shards."""
SHOWN = 5


def plan_coco(source: CocoSource, vocabulary: Vocabulary) -> ImportPlan:
    """Plan the import of a COCO-format folder.

    Images keep their bytes. A crowd is not one object: its annotation is left out and counted.
    COCO's own layout keeps its own split if it has one.

    Args:
        source: where the folder is, and the share of images held out where it has no split.
        vocabulary: the concepts, which must hold every category.

    Raises:
        ValueError: if the folder is missing, broken or empty, or has a category that the vocabulary
            does not know.
    """
    coco = read_coco(location(source.path))
    categories = category_names(coco.categories, vocabulary, source.priors)
    records, faults = _records(coco, source.val_fraction)
    return ImportPlan(
        source="coco",
        settings={
            "annotations": coco.checksums,
            "vocabulary": vocabulary_hash(vocabulary),
            "concept_dim": int(vocabulary.embeddings.shape[1]),
            "priors": source.priors,
            "val_fraction": source.val_fraction,
            "importer": IMPORTER,
        },
        records=records,
        faults=[*coco.faults, *faults],
        vocabulary=vocabulary,
        priors=source.priors,
        region_of=partial(coco_region, categories),
        samples_per_shard=source.samples_per_shard,
    )


def coco_region(
    categories: dict[Any, str], record: dict[str, Any], width: int, height: int
) -> Region | LeftOut:
    """The region of a COCO annotation, its category by its id.

    Args:
        categories: name of each category id.
        record: the annotation.
        width: width of the image, in pixels.
        height: height of the image, in pixels.

    Raises:
        ValueError: if the annotation is faulty.
    """
    if record.get("iscrowd"):
        return LeftOut("crowds")
    identity = record.get("category_id")
    # JSON's lists and objects cannot name anything.
    category = categories.get(identity) if isinstance(identity, int | str) else None
    if category is None:
        raise ValueError(f"category_id {identity} is not among the categories")
    return region_of(record, height, width, category)


def category_names(
    categories: Mapping[Any, str], vocabulary: Vocabulary, priors: str
) -> dict[Any, str]:
    """The vocabulary's name of each category id.

    Args:
        categories: the source's name of each category id.
        vocabulary: the concepts.
        priors: `category_names`, which needs every name in the vocabulary, or `none`, which keeps
            a name that is not there.

    Raises:
        ValueError: if priors are made of the names, and the vocabulary does not know one.
    """
    names = set(vocabulary.names)
    known = {identity: concept_name(name, names) for identity, name in categories.items()}
    unknown = sorted({categories[identity] for identity, name in known.items() if name is None})
    if unknown and priors == "category_names":
        raise ValueError(_unknown(unknown, vocabulary))
    return {identity: name or categories[identity] for identity, name in known.items()}


def _unknown(unknown: list[str], vocabulary: Vocabulary) -> str:
    named = []
    for name in unknown[:SHOWN]:
        nearest = difflib.get_close_matches(name.lower(), vocabulary.names, n=1)
        named.append(f"{name!r}" + (f" (nearest: {nearest[0]!r})" if nearest else ""))
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    return (
        f"the vocabulary does not know the category {', '.join(named)}{more}: rename it, or give a"
        " concept list that has it (data.vocabulary: a name, or a text file with one name a line)"
    )


def _records(coco: CocoFolder, val_fraction: float) -> tuple[list[ImageRecord], list[Fault]]:
    """The images whose files may be read, and the others."""
    splits = splits_of((image.key for image in coco.images if image.annotations), val_fraction)
    records, faults = [], []
    for image in coco.images:
        name = PurePath(image.record["file_name"])
        if image.annotations and (name.is_absolute() or ".." in name.parts):
            reason = f"the file name {name} points outside the folder of images"
            faults.append(Fault(image.file, image.identity, None, reason))
        else:
            records.append(_record(image, str(name), splits))
    return records, faults


def _record(image: CocoImage, name: str, splits: dict[str, Any]) -> ImageRecord:
    return ImageRecord(
        key=image.key,
        split=image.split or splits.get(image.key, "train"),
        image=str(image.folder / name),
        annotations=image.annotations,
        file=image.file,
        identity=image.identity,
        size=(image.record["width"], image.record["height"]),
    )
