"""One COCO annotation to one region, or the reason why not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pycocotools import mask as coco_mask

from datamodules.decoding.run_lengths import run_lengths
from datamodules.shards.records import Region


def region_of(record: dict[str, Any], height: int, width: int, category: str) -> Region:
    """Convert an annotation.

    Args:
        record: the annotation, its mask as polygons or as a run-length encoding.
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        category: the region's name in the vocabulary.

    Raises:
        ValueError: if the mask is broken or covers nothing, or the box lies outside the image.
    """
    if "bbox" in record:
        _check_box(record["bbox"], height, width)
    segmentation = _run_length_encoding(record.get("segmentation"), height, width)
    area = int(coco_mask.area(segmentation))
    if area == 0:
        raise ValueError("the mask covers no pixel")
    left, top, across, down = record.get("bbox") or coco_mask.toBbox(segmentation).tolist()
    captions = record.get("captions") or record.get("caption")
    if not isinstance(captions, list):
        captions = [captions]
    return Region(
        segmentation=segmentation,
        box=(float(left), float(top), float(across), float(down)),
        area=float(area),
        category=category,
        phrases=[caption for caption in captions if isinstance(caption, str)],
    )


def _check_box(box: Any, height: int, width: int) -> None:
    if not _are_numbers(box) or len(box) != 4:
        raise ValueError("the box is not four finite numbers")
    left, top, across, down = box
    if across <= 0 or down <= 0:
        raise ValueError(f"the box has no area: {box}")
    if left >= width or top >= height or left + across <= 0 or top + down <= 0:
        raise ValueError(f"the box {box} lies outside the image of {height} x {width} pixels")


def _run_length_encoding(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed encoding, its counts as text."""
    if not segmentation:
        raise ValueError("the annotation has no mask")
    if isinstance(segmentation, dict):
        run_lengths(segmentation, height, width)
        if isinstance(segmentation["counts"], str):
            return {"size": [height, width], "counts": segmentation["counts"]}
        encoded = coco_mask.frPyObjects(segmentation, height, width)
    else:
        _check_polygons(segmentation, height, width)
        encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def _check_polygons(polygons: Any, height: int, width: int) -> None:
    if not isinstance(polygons, list) or not all(map(_are_numbers, polygons)):
        raise ValueError("the mask is neither polygons of finite numbers nor run-length encoded")
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon) / 2:g} points encloses nothing")
        if not (_near(polygon[::2], width) and _near(polygon[1::2], height)):
            raise ValueError("a polygon leaves the image by more than the image's own size")


def _near(coordinates: Sequence[float], size: int) -> bool:
    """Whether coordinates are near the image: rasterizing costs memory with their distance."""
    return -size <= min(coordinates) and max(coordinates) <= 2 * size


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    )
