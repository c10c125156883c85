"""LVIS v1: masks of 1203 categories on COCO's images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from datamodules.importers import layouts
from datamodules.importers.building import ImportPlan, Split, annotation_id
from datamodules.importers.coco import category_names, coco_region
from datamodules.importers.gathering import (
    Gathering,
    Picture,
    category_list,
    check_layout,
    emptied,
    file_in,
    first_of,
    identity_of,
    lists_of,
    trimmed,
)
from datamodules.storage import Location, exists, location
from datamodules.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tap_platform.config.sources import LvisSource

IMAGE_URL = re.compile(r".*/((?:train|val)2017/[^/]+)")
RESPELLED = {"speaker_(stero_equipment)": "speaker_(stereo_equipment)"}
"""LVIS's own spelling, and that of TAP's list."""


def plan_lvis(source: LvisSource, vocabulary: Vocabulary) -> ImportPlan:
    """Plan the import of LVIS v1.

    Its own split is kept where both files are there; else a share of the images is held out. An
    image lies where its `coco_url` says, whatever the split.

    Raises:
        ValueError: if a file or folder is missing, a file is laid out otherwise, or the vocabulary
            does not know a category.
    """
    root, gathering = location(source.path), Gathering()
    images = location(source.images) if source.images else root
    files = _files(root)
    categories: dict[Any, str] = {}
    for split, path in files:
        share = split if len(files) > 1 else source.val_fraction
        added = _add_file(gathering, path, images, share)
        if any(categories.get(identity, name) != name for identity, name in added.items()):
            raise ValueError(f"{path} numbers its categories otherwise than {files[0][1].name}")
        categories |= added
    names = category_names(categories, vocabulary, source.priors)
    settings = {} if len(files) > 1 else {"val_fraction": source.val_fraction}
    return gathering.plan(source, vocabulary, partial(coco_region, names), settings)


def _files(root: Location) -> list[tuple[Split, Location]]:
    """The files that are there, with their splits."""
    splits: tuple[Split, ...] = ("train", "val")
    names = {split: f"lvis_v1_{split}.json" for split in splits}
    files = [
        (split, first_of(root, names[split], f"annotations/{names[split]}")) for split in splits
    ]
    found = [(split, path) for split, path in files if exists(path)]
    if not found:
        check_layout([path for _, path in files], layouts.LVIS)
    return found


def _add_file(
    gathering: Gathering, path: Location, folder: Location, split: Split | float
) -> dict[Any, str]:
    """Add the images of a file with their annotations; the name of each category."""
    images, annotations, categories = lists_of(
        path, gathering.read_json(path), "images", "annotations", "categories"
    )
    pictures = gathering.pictures(path.name, images, lambda image: _image_path(folder, image))
    _check_folders(folder, pictures.values())
    records = gathering.add_all(path.name, pictures, split)
    for annotation in emptied(annotations):
        image = identity_of(annotation, "image_id")
        if image in records:
            records[image].annotations.append(trimmed(annotation))
        else:
            reason = "its image_id is not among the images"
            gathering.fault(path.name, image, annotation_id(annotation), reason)
    listed = category_list(path, categories)
    return {identity: RESPELLED.get(name, name) for identity, name in listed.items()}


def _image_path(folder: Location, image: dict[str, Any]) -> str:
    """Where an image lies: the last folder of its URL tells, as LVIS v1 names no files."""
    named = IMAGE_URL.fullmatch(str(image.get("coco_url")))
    if named is None:
        raise ValueError(f"its coco_url {image.get('coco_url')!r} does not end in train2017/NAME")
    return file_in(folder, named[1])


def _check_folders(folder: Location, pictures: Iterable[Picture]) -> None:
    """Refuse to go on where a whole folder of images is missing."""
    names = sorted({PurePosixPath(picture.path).parent.name for picture in pictures})
    check_layout([folder / name for name in names], layouts.LVIS)
