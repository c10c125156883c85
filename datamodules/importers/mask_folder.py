"""A folder of images with their masks as PNG files.

    FOLDER/images/NAME.jpg         the images: .jpg, .jpeg or .png
    FOLDER/masks/NAME.png          either a map of labels: every value above 0 is one region
    FOLDER/masks/NAME/*.png        or one mask a file: 0 outside, one other value inside
    FOLDER/classes.txt             optional, for maps of labels: line N is the name of value N

A map of labels has 8 or 16 bits a pixel, or a palette, whose indexes are the labels and whose
colours mean nothing. Without `classes.txt` its values number the regions, and regions have no
category; with it (as semantic data sets have) a value without a line, such as 255 for what is to be
ignored, is left out and counted. The category of a mask in a file of its own is the file's name up
to a trailing `_3` or `-3`: `masks/street/traffic light_2.png` is a traffic light.

Categories are taken in the vocabulary's spelling where it knows them. An image without masks is
left out. Masks have the size of their image.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.decoding.pictures import picture_size
from datamodules.importers.building import (
    WITHOUT_REGIONS,
    Fault,
    ImageRecord,
    ImportPlan,
    LeftOut,
    read_file,
    splits_of,
    vocabulary_hash,
)
from datamodules.importers.coco_files import concept_name, key_of
from datamodules.shards.records import Region
from datamodules.storage import Location, exists, list_files, location, read_bytes
from datamodules.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tap_platform.config.sources import MaskFolderSource

IMPORTER = 1
"""Counts up whenever the same folder gives other shards."""
IMAGE_TYPES = (".jpg", ".jpeg", ".png")
CLASSES = "classes.txt"
SHOWN = 6
_LISTERS = 16


def plan_mask_folder(source: MaskFolderSource, vocabulary: Vocabulary) -> ImportPlan:
    """Plan the import of a folder of images and masks.

    Args:
        source: where the folder is, and the share of images held out.
        vocabulary: the concepts; categories that it knows are taken in its spelling.

    Raises:
        ValueError: if the folder is laid out otherwise, or has no image with a mask.
    """
    root = location(source.path)
    images, masks = _images(root), _masks(root)
    classes = _classes(root)
    if not any(PurePath(image.name).stem in masks for image in images):
        raise ValueError(f"the data set in {root} is empty: no image in images/ has a mask")
    records, faults = _records(images, masks, source.val_fraction)
    listed = "\n".join(path for record in records for path in (record.image, *record.files))
    return ImportPlan(
        source="mask_folder",
        settings={
            "files": hashlib.sha256(listed.replace(str(root), "").encode()).hexdigest(),
            "classes": list(classes),
            "vocabulary": vocabulary_hash(vocabulary),
            "concept_dim": int(vocabulary.embeddings.shape[1]),
            "priors": source.priors,
            "val_fraction": source.val_fraction,
            "importer": IMPORTER,
        },
        records=records,
        faults=faults,
        vocabulary=vocabulary,
        priors=source.priors,
        region_of=partial(mask_region, classes, frozenset(vocabulary.names)),
        annotations_of=labels_of,
        samples_per_shard=source.samples_per_shard,
        left_out={WITHOUT_REGIONS: sum(PurePath(each.name).stem not in masks for each in images)},
    )


def _images(root: Location) -> list[Location]:
    folder = root / "images"
    images = [
        each for each in list_files(folder) if PurePath(each.name).suffix.lower() in IMAGE_TYPES
    ]
    if not images:
        raise ValueError(
            f"{root} is not a folder of images and masks: there is no .jpg or .png in {folder}"
        )
    return images


def _masks(root: Location) -> dict[str, tuple[Location, ...]]:
    """By the name of the image: its map of labels, or the masks in its folder."""
    entries = list_files(root / "masks")
    maps = {PurePath(each.name).stem: (each,) for each in entries if each.name.endswith(".png")}
    folders = [each for each in entries if not each.name.endswith(".png")]
    with ThreadPoolExecutor(_LISTERS) as pool:
        listed = pool.map(lambda folder: tuple(list_files(folder, "*.png")), folders)
        own = {folder.name: files for folder, files in zip(folders, listed, strict=True) if files}
    twice = sorted(set(maps) & set(own))
    if twice:
        raise ValueError(
            f"masks/{twice[0]}.png and masks/{twice[0]}/ are both there: keep the map of labels or"
            " the folder of masks"
        )
    return maps | own


def _classes(root: Location) -> tuple[str, ...]:
    path = root / CLASSES
    if not exists(path):
        return ()
    try:
        return tuple(line.strip() for line in read_bytes(path).decode().splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def _records(
    images: Sequence[Location], masks: dict[str, tuple[Location, ...]], val_fraction: float
) -> tuple[list[ImageRecord], list[Fault]]:
    faults = []
    by_key: dict[str, Location] = {}
    names = {PurePath(image.name).stem for image in images}
    for image in images:
        stem = PurePath(image.name).stem
        if stem not in masks:
            continue
        if (key := key_of(stem)) in by_key:
            other = by_key[key].name
            faults.append(Fault("images", image.name, None, f"{other} has the key {key} already"))
        else:
            by_key[key] = image
    for name in sorted(set(masks) - names):
        faults.append(Fault("masks", None, name, "there is no image of that name in images/"))
    splits = splits_of(by_key, val_fraction)
    records = [
        ImageRecord(
            key=key,
            split=splits[key],
            image=str(image),
            annotations=list(_own_masks(masks[PurePath(image.name).stem])),
            file="masks",
            identity=image.name,
            files=tuple(map(str, masks[PurePath(image.name).stem])),
        )
        for key, image in by_key.items()
    ]
    return records, faults


def _own_masks(files: Sequence[Location]) -> Iterator[dict[str, Any]]:
    """The annotations of masks in files of their own; none for a map of labels."""
    for file in files:
        if file.parent.name == "masks" and len(files) == 1:
            return
        yield {"id": file.name, "path": str(file)}


def labels_of(record: ImageRecord, width: int, height: int) -> list[dict[str, Any]]:
    """One annotation for each value of an image's map of labels.

    Raises:
        ValueError: if the file is no map of labels, or of another size than the image.
    """
    labels = _read_labels(record.files[0], width, height)
    return [{"id": int(value), "labels": labels} for value in np.unique(labels) if value]


def mask_region(
    classes: tuple[str, ...],
    names: frozenset[str],
    annotation: dict[str, Any],
    width: int,
    height: int,
) -> Region | LeftOut:
    """The region of a label or of a mask file.

    Args:
        classes: names of the labels from 1 on; empty if they have none.
        names: names of the vocabulary.
        annotation: `id` with the map of `labels`, or with the `path` of the mask.
        width: width of the image, in pixels.
        height: height of the image, in pixels.

    Raises:
        ValueError: if the mask is broken, empty, of another size, or not of two values.
    """
    if "labels" in annotation:
        value = annotation["id"]
        if classes and not (value <= len(classes) and classes[value - 1]):
            return LeftOut(f"labels without a line in {CLASSES}")
        category = classes[value - 1] if classes else None
        return _region(annotation["labels"] == value, _spelled(category, names))
    labels = _read_labels(annotation["path"], width, height)
    _check_binary(labels)
    stem = PurePath(annotation["path"]).stem
    category = re.sub(r"[_-]\d+$", "", stem)
    return _region(labels > 0, _spelled(None if category.isdigit() else category, names))


def _spelled(category: str | None, names: frozenset[str]) -> str | None:
    return category and (concept_name(category, set(names)) or category)


def _region(mask: NDArray[np.bool_], category: str | None) -> Region:
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    left, top, width, height = coco_mask.toBbox(encoded).tolist()
    return Region(
        segmentation={"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")},
        box=(left, top, width, height),
        area=float(mask.sum()),
        category=category,
    )


def _check_binary(labels: NDArray[np.integer[Any]]) -> None:
    values = np.unique(labels)
    if not values.any():
        raise ValueError("the mask covers no pixel")
    if np.count_nonzero(values) > 1:
        shown = ", ".join(map(str, values[:SHOWN])) + (", …" if len(values) > SHOWN else "")
        raise ValueError(
            f"the mask has {len(values)} values ({shown}), but a file in a folder of masks is one"
            " region, 0 outside and one other value inside: save it without soft edges, or give a"
            " map of labels as masks/NAME.png"
        )


def _read_labels(path: str, width: int, height: int) -> NDArray[np.integer[Any]]:
    """The values of a PNG, `[height, width]`.

    Raises:
        ValueError: if it cannot be read, has colours, or is of another size.
    """
    name, data = PurePath(path).name, read_file("mask", path)
    found_height, found_width = picture_size(data)
    if (found_width, found_height) != (width, height):
        raise ValueError(
            f"the mask {name} has {found_width} x {found_height} pixels, the image has {width} x"
            f" {height}"
        )
    try:
        values = np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the mask {name} cannot be decoded: {error}") from error
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise ValueError(
            f"the mask {name} has colours: a mask has one value a pixel, of 8 or 16 bits or the"
            " index of a palette"
        )
    return values.astype(np.int64) if values.dtype == bool else values
