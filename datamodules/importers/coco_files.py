"""The files of a COCO-format folder: where they are, and what they say."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from datamodules.importers.building import Fault, Split, annotation_id
from datamodules.storage import Location, exists, list_files, read_bytes

SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(slots=True)
class CocoImage:
    """One image record with the records of its annotations."""

    file: str
    """Name of the annotation file."""
    folder: Location
    """Folder that the image lies in."""
    record: dict[str, Any]
    split: Split | None
    """`train` or `val` where the folder has its own split, else None."""
    annotations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def identity(self) -> Any:
        """The image's id."""
        return self.record["id"]

    @property
    def key(self) -> str:
        """The image's key in the shards, see `key_of`."""
        return key_of(self.identity)


@dataclass(slots=True)
class CocoFolder:
    """Everything that the annotation files of a folder say."""

    images: list[CocoImage]
    categories: dict[Any, str]
    """Name of each category id."""
    checksums: dict[str, str]
    """sha256 of each annotation file."""
    faults: list[Fault]
    """Records that say nothing usable."""


def read_coco(folder: Location) -> CocoFolder:
    """Read `annotations.json` with `images/`, or COCO's own `annotations/instances_*.json`.

    COCO's own layout keeps its own split where it has both a train and a val file.

    Raises:
        ValueError: if the folder is missing, is laid out otherwise, has a broken annotation file,
            or has no image or no annotation.
    """
    if isinstance(folder, Path) and not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    coco = CocoFolder([], {}, {}, [])
    for path, images, split in _annotation_files(folder):
        _add_file(coco, path, images, split)
    if not coco.images or not any(image.annotations for image in coco.images):
        raise ValueError(f"the data set in {folder} is empty: it has no image with an annotation")
    return coco


def _annotation_files(folder: Location) -> list[tuple[Location, Location, Split | None]]:
    """Each annotation file with the folder of its images and its split."""
    if exists(folder / "annotations.json"):
        return [(folder / "annotations.json", folder / "images", None)]
    paths = list_files(folder / "annotations", "instances_*.json")
    if not paths:
        raise ValueError(
            f"{folder} is not a COCO-format folder: it has neither annotations.json beside images/"
            " nor annotations/instances_*.json"
        )
    splits = [next((split for split in SPLITS if split in path.stem), None) for path in paths]
    own_split = set(SPLITS) <= set(splits)
    return [
        (path, _image_folder(folder, path), split if own_split else None)
        for path, split in zip(paths, splits, strict=True)
    ]


def _image_folder(folder: Location, path: Location) -> Location:
    name = path.stem.removeprefix("instances_")
    candidates = [folder / name, folder / "images" / name, folder / "images"]
    return next((each for each in candidates if exists(each)), candidates[0])


def _add_file(coco: CocoFolder, path: Location, folder: Location, split: Split | None) -> None:
    if not exists(folder):
        raise ValueError(f"the images of {path} are missing: no such folder: {folder}")
    content = read_bytes(path)
    images, annotations, categories = _sections(path, content)
    coco.checksums[path.name] = hashlib.sha256(content).hexdigest()
    coco.categories.update(categories)
    known = {image.identity: image for image in coco.images}
    keys = {image.key for image in coco.images}
    for record in images:
        fault = _image_fault(record, known, keys)
        if fault is None:
            known[record["id"]] = CocoImage(path.name, folder, record, split)
            coco.images.append(known[record["id"]])
            keys.add(known[record["id"]].key)
        else:
            identity = record.get("id") if isinstance(record, dict) else None
            coco.faults.append(Fault(path.name, identity, None, fault))
    for record in annotations:
        image_id = record.get("image_id") if isinstance(record, dict) else None
        if isinstance(image_id, int | str) and image_id in known:
            known[image_id].annotations.append(record)
        else:
            reason = "its image_id is not among the images"
            coco.faults.append(Fault(path.name, image_id, annotation_id(record), reason))


def _sections(path: Location, content: bytes) -> tuple[list[Any], list[Any], dict[Any, str]]:
    """The image records, the annotation records and the names of the categories."""
    try:
        record = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    try:
        categories = {each["id"]: str(each["name"]).strip() for each in record["categories"]}
        return list(record["images"]), list(record["annotations"]), categories
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not in COCO's format ({error!r}): it needs the lists images, annotations"
            " and categories, whose entries have an id and a name"
        ) from error


def key_of(identity: int | str) -> str:
    """An image's key in the shards: a number gets COCO's twelve digits.

    A text loses its dots and slashes, which tars need for themselves.
    """
    return f"{identity:012d}" if isinstance(identity, int) else re.sub(r"[./\\\0]", "-", identity)


def _image_fault(record: Any, known: dict[Any, CocoImage], keys: set[str]) -> str | None:
    wanted = {"id": int | str, "file_name": str, "width": int, "height": int}
    if not isinstance(record, dict):
        return "the image record is not an object"
    wrong = [name for name, kind in wanted.items() if not isinstance(record.get(name), kind)]
    if wrong:
        return f"the image record has no proper {', '.join(wrong)}"
    if record["id"] in known:
        return "the image id appears twice"
    if record["id"] == "":
        return "the image id is empty"
    if (key := key_of(record["id"])) in keys:
        return f"another image has the key {key} already"
    return None


def concept_name(category: str, names: set[str]) -> str | None:
    """The vocabulary's name of a category; None if it does not know it.

    Concept lists are joined as TAP's authors join them: lower case, blanks for `_` and `-`, and no
    plural beside its singular (so COCO's `skis` is their `ski`). The first form that fits is taken.
    """
    plain = re.sub("[-_]", " ", category.lower())
    forms = (category, category.lower(), plain, plain.removesuffix("s"), plain.removesuffix("es"))
    return next((form for form in forms if form in names), None)
