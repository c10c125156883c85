"""Visual Genome as GRiT's authors prepare it: COCO-like files of boxes and captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datamodules.importers import layouts
from datamodules.importers.box_regions import box_region, checked_box, joined_boxes, phrase_of
from datamodules.importers.building import ImportPlan, Split, annotation_id
from datamodules.importers.gathering import (
    Gathering,
    check_fields,
    check_layout,
    emptied,
    file_in,
    first_of,
    identity_of,
    lists_of,
)
from datamodules.storage import Location, location
from datamodules.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tap_platform.config.sources import GritSource


def plan_grit(source: GritSource, vocabulary: Vocabulary) -> ImportPlan:
    """Plan the import of GRiT's Visual Genome files.

    Regions have no mask and no category. Identical boxes of an image become one region with the
    captions of all.

    Raises:
        ValueError: if a file or folder is missing, or a file is laid out otherwise.
    """
    root, gathering = location(source.path), Gathering()
    train = first_of(root, "annotations/train.json", "train.json")
    test = first_of(root, "annotations/test.json", "test.json")
    images = first_of(root, "images", "VG_100K")
    if source.held_out == "test":
        check_layout([train, test, images], layouts.GRIT)
        _add_file(gathering, train, images, "train")
        _add_file(gathering, test, images, "val")
        return gathering.plan(source, vocabulary, box_region, {"held_out": "test"})
    check_layout([train, images], layouts.GRIT)
    _add_file(gathering, train, images, source.val_fraction)
    settings = {"held_out": "train", "val_fraction": source.val_fraction}
    return gathering.plan(source, vocabulary, box_region, settings)


def _add_file(gathering: Gathering, path: Location, folder: Location, split: Split | float) -> None:
    """Add the images of a file with their boxes."""
    images, annotations = lists_of(path, gathering.read_json(path), "images", "annotations")
    pictures = gathering.pictures(
        path.name, images, lambda image: file_in(folder, image.get("file_name"))
    )
    records = gathering.add_all(path.name, pictures, split)
    for annotation in emptied(annotations):
        image = identity_of(annotation, "image_id")
        with gathering.listing(path.name, image, annotation_id(annotation)):
            if image not in records:
                raise ValueError("its image_id is not among the images")
            if annotation.get("iscrowd"):
                gathering.left_out["crowds"] += 1
            else:
                records[image].annotations.append(_box(annotation))
    for record in records.values():
        record.annotations[:] = joined_boxes(record.annotations)


def _box(annotation: dict[str, Any]) -> dict[str, Any]:
    check_fields("annotation", annotation, {"bbox": list, "caption": str})
    return {
        "id": annotation_id(annotation),
        "bbox": checked_box(annotation["bbox"]),
        "phrases": [phrase_of(annotation["caption"])],
    }
