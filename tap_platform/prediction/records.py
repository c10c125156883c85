"""Predictions as JSON: SA-1B's layout with COCO run-length encodings.

What is written here reads like an annotation of a shard: the concept is its category, the caption
its phrase.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from tap_platform.objectives.prompts import BOX_LEFT_TOP, BOX_RIGHT_BOTTOM, PAD, Prompts
from tap_platform.prediction.regions import Prediction


def encode_prediction(file_name: str, found: Prediction, prompts: Prompts | None = None) -> bytes:
    """The JSON of an image's regions.

    Args:
        file_name: of the image.
        found: M regions.
        prompts: what each answers, in pixels of the image; left out, records tell no prompt.

    Returns:
        UTF-8 with `image` (file_name, width, height) and `annotations`; each of these has
        `segmentation` (RLE), `bbox` (left, top, width, height in pixels), `area` (pixels),
        `predicted_iou`, `stability_score`, `category` (null without a vocabulary) and its
        `category_score`, `phrases` (the caption) and the `prompt`.
    """
    height, width = found.masks.shape[1:]
    image = {"file_name": file_name, "width": width, "height": height}
    annotations = [_region(found, number) for number in range(len(found))]
    if prompts is not None:
        for number, annotation in enumerate(annotations):
            annotation["prompt"] = prompt_record(prompts, number)
    record = {"image": image, "annotations": annotations}
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask, bool [H, W], as a COCO run-length encoding whose counts are text."""
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


def prompt_record(prompts: Prompts, number: int) -> dict[str, Any]:
    """One prompt: its `box`, if it has one, and its `points` (x, y, label), without pads."""
    record: dict[str, Any] = {}
    points = []
    rows = zip(prompts.points[number].tolist(), prompts.labels[number].tolist(), strict=True)
    for (x, y), label in rows:
        if label in (BOX_LEFT_TOP, BOX_RIGHT_BOTTOM):
            record["box"] = [*record.get("box", []), x, y]
        elif label != PAD:
            points.append([x, y, label])
    return {**record, "points": points} if points else record


def _region(found: Prediction, number: int) -> dict[str, Any]:
    left, top, right, bottom = found.boxes[number].tolist()
    record: dict[str, Any] = {
        "id": number,
        "segmentation": encode_mask(found.masks[number]),
        "bbox": [left, top, right - left, bottom - top],
        "area": int(found.masks[number].sum()),
        "predicted_iou": float(found.iou[number]),
        "stability_score": float(found.stability[number]),
        "category": None,
        "phrases": [] if found.captions is None else [str(found.captions[number])],
    }
    if found.concepts is not None and found.concept_scores is not None:
        record["category"] = str(found.concepts[number])
        record["category_score"] = float(found.concept_scores[number])
    return record
