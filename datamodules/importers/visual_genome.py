"""Visual Genome's region descriptions: boxes with phrases, in DenseCap's splits."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

from datamodules.importers import layouts
from datamodules.importers.box_regions import (
    PhrasedBox,
    box_region,
    checked_box,
    joined_boxes,
    phrase_of,
)
from datamodules.importers.building import ImageRecord, ImportPlan, Split
from datamodules.importers.gathering import (
    Gathering,
    Picture,
    check_fields,
    check_layout,
    emptied,
    identity_of,
    lists_of,
)
from datamodules.storage import Location, location
from datamodules.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tap_platform.config.sources import VisualGenomeSource

REGIONS, IMAGES, SPLITS = "region_descriptions.json", "image_data.json", "densecap_splits.json"
Splits: TypeAlias = dict[Any, Split | None]
"""The platform's split of an image id; None if it is left out."""
FOLDERS = ("VG_100K", "VG_100K_2")


def plan_visual_genome(source: VisualGenomeSource, vocabulary: Vocabulary) -> ImportPlan:
    """Plan the import of Visual Genome's region descriptions (version 1.2).

    Regions have no mask and no category. Identical boxes of an image become one region with the
    phrases of all. DenseCap's split is kept: `source.held_out` tells which of its splits becomes
    `val`; the other one, and the images that it does not name, are left out.

    Raises:
        ValueError: if a file or folder is missing, or a file is laid out otherwise.
    """
    root, gathering = location(source.path), Gathering()
    check_layout(
        [root / name for name in (REGIONS, IMAGES, SPLITS, *FOLDERS)], layouts.VISUAL_GENOME
    )
    known = _add_images(gathering, root, _splits(gathering, root / SPLITS, source.held_out))
    _add_regions(gathering, root / REGIONS, known)
    return gathering.plan(source, vocabulary, box_region, {"held_out": source.held_out})


def _splits(gathering: Gathering, path: Location, held_out: str) -> Splits:
    """The platform's split of each image id that DenseCap names."""
    content = gathering.read_json(path)
    train, val = lists_of(path, content, "train", held_out)
    ids = [identity for each in lists_of(path, content, *content) for identity in each]
    if not all(isinstance(identity, int) for identity in ids):
        raise ValueError(f"{path} is laid out otherwise: its lists hold more than image ids")
    splits: Splits = dict.fromkeys(ids) | dict.fromkeys(train, "train") | dict.fromkeys(val, "val")
    return splits


def _add_images(
    gathering: Gathering, root: Location, splits: Splits
) -> dict[Any, ImageRecord | None]:
    """Add the images of the splits; the record of each id that the file holds, None if unused."""
    content = gathering.read_json(root / IMAGES)
    if not isinstance(content, list):
        raise ValueError(f"{root / IMAGES} is laid out otherwise: it is not a list of images")
    known: dict[Any, ImageRecord | None] = {}
    for image in emptied(content):
        identity = identity_of(image, "image_id")
        with gathering.listing(IMAGES, identity):
            check_fields("image record", image, {"image_id": int, "width": int, "height": int})
            if identity in known:
                raise ValueError("the image id appears twice")
            known[identity] = None
            if split := splits.get(identity):
                path, size = _image_path(root, image.get("url")), (image["width"], image["height"])
                known[identity] = gathering.add(REGIONS, identity, Picture(path, size), split)
            else:
                what = "images of other splits" if identity in splits else "images in no split"
                gathering.left_out[what] += 1
    for identity in [each for each, split in splits.items() if split and each not in known]:
        gathering.fault(SPLITS, identity, None, f"the image is not in {IMAGES}")
    return known


def _image_path(root: Location, url: Any) -> str:
    """Where an image lies: the URL's last folder is that of the archive it came in."""
    parts = PurePosixPath(url).parts if isinstance(url, str) else ()
    if len(parts) < 2 or parts[-2] not in FOLDERS:
        raise ValueError(f"the URL {url!r} does not tell the folder, {' or '.join(FOLDERS)}")
    return str(root / parts[-2] / parts[-1])


def _add_regions(
    gathering: Gathering, path: Location, known: dict[Any, ImageRecord | None]
) -> None:
    content = gathering.read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path} is laid out otherwise: it is not a list of images with regions")
    for entry in emptied(content):
        identity = identity_of(entry)
        with gathering.listing(REGIONS, identity):
            check_fields("entry", entry, {"id": int, "regions": list})
            if identity not in known:
                raise ValueError(f"the image is not in {IMAGES}")
            record = known[identity]
            if record is not None:
                boxes = [*record.annotations, *_boxes(gathering, identity, entry["regions"])]
                record.annotations[:] = joined_boxes(boxes)


def _boxes(gathering: Gathering, image: int, regions: list[Any]) -> list[PhrasedBox]:
    boxes: list[PhrasedBox] = []
    for region in regions:
        identity = identity_of(region, "region_id")
        with gathering.listing(REGIONS, image, "without id" if identity is None else identity):
            check_fields("region", region, {"region_id": int, "phrase": str})
            if region.get("image_id", image) != image:
                raise ValueError(f"it says that it belongs to image {region['image_id']}")
            box = checked_box(region.get(name) for name in ("x", "y", "width", "height"))
            phrase = phrase_of(region["phrase"])
            boxes.append({"id": identity, "bbox": box, "phrases": [phrase]})
    return boxes
