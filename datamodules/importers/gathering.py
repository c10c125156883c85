"""Reading published annotation files: what fits is gathered by image, what does not is listed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from datamodules.importers.building import (
    Fault,
    ImageRecord,
    ImportPlan,
    RegionOf,
    Split,
    splits_of,
    vocabulary_hash,
)
from datamodules.importers.coco_files import key_of
from datamodules.storage import Location, exists, read_bytes, reason
from datamodules.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tap_platform.config.sources import ImportedSource

IMPORTER = 1
"""Counts up whenever an importer that gathers gives other bytes for the same files."""
KEPT_FIELDS = ("id", "category_id", "segmentation", "bbox", "iscrowd")
IMAGE_FIELDS = {"id": int, "width": int, "height": int}


class Picture(NamedTuple):
    """An image file that a source names."""

    path: str
    size: tuple[int, int]
    """Width and height that the source claims, in pixels."""


class Gathering:
    """The images of a source with their annotations, as its files are read.

    Attributes:
        faults: Records that cannot be used, and why.
        left_out: How many records are left out on purpose, by what they are.
        checksums: sha256 of each file that was read, by its name.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.left_out: Counter[str] = Counter()
        self.checksums: dict[str, str] = {}
        self._records: list[ImageRecord] = []

    def plan(
        self,
        source: ImportedSource,
        vocabulary: Vocabulary,
        region_of: RegionOf,
        settings: dict[str, Any],
    ) -> ImportPlan:
        """What was gathered as a plan.

        Args:
            source: where it comes from.
            vocabulary: the concepts.
            region_of: makes the region of an annotation.
            settings: what the bytes depend on besides the files and the vocabulary.
        """
        shared = {
            "annotations": self.checksums,
            "vocabulary": vocabulary_hash(vocabulary),
            "priors": source.priors,
            "importer": IMPORTER,
        }
        return ImportPlan(
            source=source.source,
            settings=shared | settings,
            records=self._records,
            faults=self.faults,
            vocabulary=vocabulary,
            priors=source.priors,
            region_of=region_of,
            samples_per_shard=source.samples_per_shard,
            left_out=dict(self.left_out),
        )

    def read(self, path: Location) -> bytes:
        """The bytes of a file, whose checksum is noted.

        Raises:
            ValueError: if it cannot be read.
        """
        try:
            content = read_bytes(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {reason(error)}") from error
        self.checksums[path.name] = hashlib.sha256(content).hexdigest()
        return content

    def read_json(self, path: Location) -> Any:
        """The content of a JSON file, whose checksum is noted.

        Raises:
            ValueError: if it cannot be read, or is not JSON.
        """
        try:
            return orjson.loads(self.read(path))
        except orjson.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error

    def pictures(
        self, file: str, images: list[Any], path_of: Callable[[dict[str, Any]], str]
    ) -> dict[Any, Picture]:
        """The images that a COCO-like list names, by their ids.

        Args:
            file: name of the file that holds the list, for the list of faults.
            images: the records, each with `id`, `width` and `height`; the list is used up.
            path_of: tells where the image of a record lies, or raises ValueError.
        """
        pictures: dict[Any, Picture] = {}
        for image in emptied(images):
            identity = identity_of(image)
            with self.listing(file, identity):
                check_fields("image record", image, IMAGE_FIELDS)
                if identity in pictures:
                    raise ValueError("the image id appears twice")
                pictures[identity] = Picture(path_of(image), (image["width"], image["height"]))
        return pictures

    def add(self, file: str, identity: Any, picture: Picture, split: Split) -> ImageRecord:
        """Add an image, as yet without annotations, and give it back."""
        key = key_of(identity)
        record = ImageRecord(key, split, picture.path, [], file, identity, picture.size)
        self._records.append(record)
        return record

    def add_all(
        self, file: str, pictures: Mapping[Any, Picture], split: Split | float
    ) -> dict[Any, ImageRecord]:
        """Add images to a split, or hold a share of them out; their records by id."""
        if isinstance(split, float):
            held_out = splits_of(map(key_of, pictures), split)
            splits = {identity: held_out[key_of(identity)] for identity in pictures}
        else:
            splits = dict.fromkeys(pictures, split)
        return {
            identity: self.add(file, identity, picture, splits[identity])
            for identity, picture in pictures.items()
        }

    def fault(self, file: str, image: Any, annotation: Any, reason: str) -> None:
        """List a fault of a file: of an image, or of an annotation if `annotation` is not None."""
        self.faults.append(Fault(file, image, annotation, reason))

    @contextmanager
    def listing(self, file: str, image: Any, annotation: Any = None) -> Iterator[None]:
        """List a ValueError as a fault, and go on after the block."""
        try:
            yield
        except ValueError as error:
            self.fault(file, image, annotation, str(error))


def emptied(entries: list[Any]) -> Iterator[Any]:
    """The entries in their order; each is let go as it is used, for lists that fill the memory."""
    entries.reverse()
    while entries:
        yield entries.pop()


def first_of(folder: Location, *names: str) -> Location:
    """The first of the names that is there, else the first of all."""
    places = [folder / name for name in names]
    return next((place for place in places if exists(place)), places[0])


def check_layout(needed: Sequence[Location], layout: str) -> None:
    """Refuse a folder in which something is missing.

    Raises:
        ValueError: naming what is missing, and the layout that is expected.
    """
    missing = [str(path) for path in needed if not exists(path)]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}. Expected:\n{layout}")


def lists_of(path: Location, content: Any, *names: str) -> list[list[Any]]:
    """The named lists of a JSON file's content.

    Raises:
        ValueError: if it is no object, or lacks one of the lists.
    """
    lists = [content.get(name) if isinstance(content, dict) else None for name in names]
    found = [each for each in lists if isinstance(each, list)]
    if len(found) < len(names):
        raise ValueError(f"{path} is laid out otherwise: it needs the lists {', '.join(names)}")
    return found


def file_in(folder: Location, name: Any) -> str:
    """The path of a file that a record names.

    Raises:
        ValueError: if it is no name, or points outside the folder.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "://" in name:
        raise ValueError(f"the file name {name!r} points to no file in the folder of images")
    return str(folder / name)


def check_fields(what: str, record: Any, kinds: Mapping[str, type]) -> None:
    """Refuse a record in which a field is missing, or of another kind.

    Raises:
        ValueError: naming the fields.
    """
    if not isinstance(record, dict):
        raise ValueError(f"the {what} is not an object")
    wrong = [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]
    if wrong:
        raise ValueError(f"the {what} has no proper {', '.join(wrong)}")


def category_list(path: Location, categories: list[Any]) -> dict[Any, str]:
    """The name of each category id, as the file has it.

    Raises:
        ValueError: if a category has no id or no name.
    """
    try:
        return {each["id"]: str(each["name"]).strip() for each in categories}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: each of its categories needs an id and a name") from error


def trimmed(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """What a region needs of a COCO-like annotation."""
    return {name: annotation[name] for name in KEPT_FIELDS if name in annotation}


def identity_of(record: Any, name: str = "id") -> Any:
    """A record's id for the list of faults; None if it has none that can be one."""
    identity = record.get(name) if isinstance(record, dict) else None
    return identity if isinstance(identity, int | str) else None
