"""Small ground truths for the tests of the evaluation suites."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from tap_platform.evaluation.suites.ground_truth import read_ground_truth

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 5, "name": "red car"}]
"""Neither by number nor by the alphabet."""


def disc(x, y, radius, size=(60, 80)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).astype(np.uint8)


def rle(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def annotation(number, image, category, mask, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": coco_mask.toBbox(rle(mask)).tolist(),
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": rle(mask),
        **more,
    }


def content():
    """Two images of 60 x 80 pixels with a region of each category."""
    return {
        "images": [
            {"id": image, "file_name": f"{image}.png", "width": 80, "height": 60}
            for image in (11, 12)
        ],
        "categories": CATEGORIES,
        "annotations": [
            annotation(0, 11, 7, disc(20, 30, 12), caption="a brown dog"),
            annotation(1, 11, 3, disc(55, 25, 15), caption="a black cat on a mat"),
            annotation(2, 12, 5, disc(40, 30, 20), caption="the red car"),
            annotation(3, 12, 3, disc(10, 10, 6), iscrowd=1),
        ],
    }


def lvis(coco):
    """The same with what LVIS says beside, and without crowds, which it does not know."""
    coco["annotations"] = [each for each in coco["annotations"] if not each["iscrowd"]]
    for image in coco["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category, frequency in zip(coco["categories"], "rcf", strict=True):
        category |= {"frequency": frequency}
    return coco


def write(folder, coco):
    """A COCO folder of that content; its pictures are grey but for their regions."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations.json").write_text(json.dumps(coco))
    for image in coco["images"]:
        pixels = np.full((60, 80, 3), 90, np.uint8)
        for each in coco["annotations"]:
            if each["image_id"] == image["id"]:
                pixels[coco_mask.decode(each["segmentation"]) > 0] = (
                    200,
                    40,
                    30 * (each["id"] % 8),
                )
        Image.fromarray(pixels).save(folder / "images" / f"{image['id']}.png")
    return folder


def truth(folder, coco=None):
    return read_ground_truth(write(folder, coco or content()))
