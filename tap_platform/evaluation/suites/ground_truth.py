"""Ground truth of an evaluation: COCO's or LVIS's JSON with images, or shards, in one form.

Whatever it is read from, it ends as COCO's own structure, because pycocotools and lvis, which
compute the published numbers, read that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datamodules.decoding.phrases import Wording, read_phrases
from datamodules.shards.entries import INDEX_NAME
from datamodules.shards.index import DataIndex, SampleIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import BadSample, decode_annotation

ImageId = int | str
Record = dict[str, Any]
UNNAMED = "region"
"""The category of regions without a name, as SA-1B's are."""
ANNOTATION_FILES = (
    "annotations.json",
    "annotations/instances_val2017.json",
    "annotations/lvis_v1_val.json",
    "annotations/instances_val.json",
)
"""Where a folder's annotations are looked for; the validation split, if it has splits."""


@dataclass(frozen=True)
class ImageFile:
    """An image as a file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            ValueError: if there is no such file.
        """
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ValueError(f"the image {self.path} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class ShardImage:
    """An image in a shard."""

    index: SampleIndex
    shard: int
    number: int

    def __str__(self) -> str:
        key = self.index.members(self.shard, self.number).key
        return f"{self.index.path(self.shard)}, sample {key}"

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            ValueError: if the shard does not give it.
        """
        (sample,) = read_samples(self.index, self.shard, [self.number])
        if isinstance(sample, BadSample):
            raise ValueError(f"{self}: {sample.reason}")
        return sample.image


Place = ImageFile | ShardImage


@dataclass(frozen=True)
class GroundTruth:
    """Images, their regions and their categories."""

    style: Literal["coco", "lvis"]
    """LVIS lists for each image what was looked for, and how frequent each category is."""
    origin: str
    """Where it was read from, for people."""
    categories: list[Record]
    """`id` and `name`, in the order of the file."""
    images: dict[ImageId, Record]
    """`id`, `width` and `height` of each image, and more; by id."""
    places: dict[ImageId, Place]
    """Where each image lies."""
    annotations: list[Record]
    """COCO annotations, numbered from 1: pycocotools takes an id of 0 for no match."""

    @cached_property
    def by_image(self) -> dict[ImageId, list[Record]]:
        """The annotations of each image that are one region with a box: no crowds."""
        grouped: dict[ImageId, list[Record]] = defaultdict(list)
        for annotation in self.annotations:
            if "bbox" in annotation and not annotation["iscrowd"]:
                grouped[annotation["image_id"]].append(annotation)
        return dict(grouped)

    @cached_property
    def category_names(self) -> dict[Any, str]:
        """The name of each category id."""
        return {category["id"]: str(category["name"]) for category in self.categories}

    @cached_property
    def dataset(self) -> Record:
        """The structure that pycocotools and lvis read."""
        return {
            "images": list(self.images.values()),
            "annotations": self.annotations,
            "categories": self.categories,
        }

    def first_images(self, count: int) -> GroundTruth:
        """The same, of the first images only; its origin says so, if they are not all."""
        if count >= len(self.images):
            return self
        kept = list(self.images)[:count]
        return replace(
            self,
            origin=f"{self.origin}, the first {count:,} of {len(self.images):,} images",
            images={identity: self.images[identity] for identity in kept},
            places={identity: self.places[identity] for identity in kept},
            annotations=[each for each in self.annotations if each["image_id"] in set(kept)],
        )

    def with_masks(self) -> GroundTruth:
        """The same, without the regions of which only the box is known."""
        return replace(
            self, annotations=[each for each in self.annotations if each.get("segmentation")]
        )

    def mask(self, annotation: Record) -> Record:
        """The region as COCO's compressed run-length encoding, of the image's size.

        Raises:
            ValueError: if the annotation has no mask, or a broken one.
        """
        segmentation = annotation.get("segmentation")
        image = self.images[annotation["image_id"]]
        try:
            if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
                return segmentation
            encoded = coco_mask.frPyObjects(segmentation, image["height"], image["width"])
            return coco_mask.merge(encoded) if isinstance(encoded, list) else encoded
        except Exception as error:
            raise ValueError(
                f"{self.origin}: annotation {annotation['id']} of image {annotation['image_id']}"
                f" has no usable mask ({error}); COCO's polygons or run-length encoding are read"
            ) from error


def boxes_of(annotations: Iterable[Record]) -> NDArray[np.float32]:
    """Boxes as corners, float32 [M, 4] xyxy in pixels of the image."""
    rows = [each["bbox"] for each in annotations]
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def read_ground_truth(source: str | Path, wording: Wording = "own") -> GroundTruth:
    """Read COCO's or LVIS's annotations with their images, or shards.

    Args:
        source: an annotation file; a folder with `annotations.json` and `images/`; a folder in
            COCO's own layout, whose validation split is taken; a folder of shards; or a data set,
            whose split `val` is taken.
        wording: see `truth_of_shards`.

    Raises:
        ValueError: if there is no such thing, or its annotations are broken; the message says what
            was looked for.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _read_json(path)
    for folder in (path, path / "val"):
        if (folder / INDEX_NAME).is_file():
            return truth_of_shards(DataIndex.load(folder), str(folder), wording)
    for name in ANNOTATION_FILES:
        if (path / name).is_file():
            return _read_json(path / name)
    raise ValueError(
        f"there is no ground truth at {path}: give a JSON file in COCO's or LVIS's format, a folder"
        f" with {' or '.join(ANNOTATION_FILES)} and images, or a folder of shards ({INDEX_NAME})"
    )


def read_boxes(path: Path) -> list[Record]:
    """Boxes of a detector: a list of `{image_id, category_id, bbox xywh, score}`.

    Raises:
        ValueError: if the file is not such a list, nor an object with it as `annotations`.
    """
    content = _parse(path)
    boxes = content.get("annotations") if isinstance(content, dict) else content
    wanted = {"image_id", "category_id", "bbox", "score"}
    if not isinstance(boxes, list) or not all(
        isinstance(box, dict) and wanted <= set(box) for box in boxes
    ):
        raise ValueError(
            f"{path} holds no detector boxes: it must be a list of objects with image_id,"
            " category_id, bbox (left, top, width, height in pixels) and score"
        )
    return boxes


def _parse(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _read_json(path: Path) -> GroundTruth:
    content = _parse(path)
    try:
        images = {image["id"]: image for image in content["images"]}
        categories = content.get("categories") or [{"id": 1, "name": UNNAMED}]
        annotations = _numbered(content["annotations"], images, categories)
        folders = _image_folders(path)
        places: dict[ImageId, Place] = {
            identity: ImageFile(_find_image(image, folders)) for identity, image in images.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not in COCO's format ({error!r}): it needs the lists images and"
            " annotations, and entries with id, image_id and file_name or coco_url"
        ) from error
    federated = all("neg_category_ids" in image for image in images.values())
    style: Literal["coco", "lvis"] = "lvis" if images and federated else "coco"
    return GroundTruth(style, str(path), categories, images, places, annotations)


def _numbered(
    annotations: Sequence[Record], images: dict[ImageId, Record], categories: Sequence[Record]
) -> list[Record]:
    """Annotations with ids from 1 and every field that pycocotools asks for."""
    only = categories[0]["id"]
    return [
        {
            "category_id": only,
            "iscrowd": 0,
            "area": each["bbox"][2] * each["bbox"][3] if "bbox" in each else 0,
            **each,
            "id": number,
        }
        for number, each in enumerate(annotations, start=1)
        if each["image_id"] in images
    ]


def _image_folders(path: Path) -> list[Path]:
    """Folders that images may lie in, relative to which file names and splits are tried."""
    return [path.parent / "images", path.parent, path.parent.parent / "images", path.parent.parent]


def _find_image(image: Record, folders: Sequence[Path]) -> Path:
    """The first place where an image is; else the first where it should be.

    LVIS has no file names, but addresses whose last two parts are split and file.
    """
    address = PurePosixPath(image.get("coco_url") or image["file_name"])
    name = PurePosixPath(image.get("file_name") or address.name)
    tails = (str(name), *_with_split(address))
    places = [folder / tail for tail in tails for folder in folders]
    return next((place for place in places if place.is_file()), places[0])


def _with_split(address: PurePosixPath) -> Iterator[str]:
    yield "/".join(address.parts[-2:])
    yield address.name
    yield from (f"{split}/{address.name}" for split in ("val2017", "train2017"))


def truth_of_shards(index: SampleIndex, origin: str, wording: Wording = "own") -> GroundTruth:
    """Shards as COCO's structure; categories get numbers by the alphabet.

    Args:
        index: the samples.
        origin: where they lie, for people.
        wording: what describes a region, its phrases or also the name of its category.

    Raises:
        ValueError: if a sample cannot be read.
    """
    images: dict[ImageId, Record] = {}
    places: dict[ImageId, Place] = {}
    annotations: list[Record] = []
    for identity, (shard, number, key, content) in enumerate(_shard_samples(index), start=1):
        read = decode_annotation(content)
        images[identity] = {
            "id": identity,
            "width": read.width,
            "height": read.height,
            "file_name": key,
        }
        places[identity] = ShardImage(index, shard, number)
        said = [{"phrases": each.phrases, "category": each.category} for each in read.regions]
        captions = read_phrases(said, wording).of_regions
        for region, phrases in zip(read.regions, captions, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": identity,
                    "category": region.category or UNNAMED,
                    "bbox": list(region.box),
                    "area": region.area,
                    "iscrowd": 0,
                    "segmentation": region.segmentation,
                    "captions": list(phrases),
                }
            )
    names = sorted({each["category"] for each in annotations})
    numbers = {name: number for number, name in enumerate(names, start=1)}
    for annotation in annotations:
        annotation["category_id"] = numbers[annotation.pop("category")]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return GroundTruth("coco", origin, categories, images, places, annotations)


def _shard_samples(index: SampleIndex) -> Iterator[tuple[int, int, str, bytes]]:
    for shard, count in enumerate(index.counts.tolist()):
        for number, sample in enumerate(read_samples(index, shard, range(count))):
            if isinstance(sample, BadSample):
                raise ValueError(f"{index.path(shard)}, sample {sample.key}: {sample.reason}")
            yield shard, number, sample.key, sample.annotation
