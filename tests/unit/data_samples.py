"""Small samples made in memory, for the tests of the data core."""

import io

import numpy as np
import simplejpeg
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.shards.reader import ShardReader
from datamodules.shards.records import RawSample, Region, Sample, encode_annotation, encode_priors


def smooth_image(height=48, width=64, seed=0):
    """RGB noise of low frequency, which survives JPEG and resampling."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    resized = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def jpeg(height=48, width=64, seed=0):
    return simplejpeg.encode_jpeg(np.ascontiguousarray(smooth_image(height, width, seed)))


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rle(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def box_mask(height, width, left, top, right, bottom):
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def region(mask, category="cat", **changes):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (0.0, 0.0, 0.0, 0.0)
    if len(rows):
        left, top = columns[0], rows[0]
        box = tuple(map(float, (left, top, columns[-1] + 1 - left, rows[-1] + 1 - top)))
    values = {"segmentation": rle(mask), "box": box, "area": float(mask.sum())}
    return Region(**{**values, "category": category, **changes})


def sample(key="a", regions=None, dim=4, height=48, width=64, seed=0):
    if regions is None:
        regions = [
            region(box_mask(height, width, 4, 6, 30, 40), "cat"),
            region(box_mask(height, width, 20, 10, 60, 30), "dog", phrases=["a brown dog"]),
        ]
    priors = np.arange(len(regions) * dim, dtype=np.float16).reshape(len(regions), dim)
    return Sample(key, jpeg(height, width, seed), width, height, regions, priors)


def raw(made, **changes):
    values = {
        "shard": "shard-000000.tar",
        "key": made.key,
        "image": made.image,
        "annotation": encode_annotation(made),
        "priors": None if made.priors is None else encode_priors(made.priors),
    }
    return RawSample(**{**values, **changes})


def read_all(index):
    with ShardReader(index) as reader:
        return [
            reader.read(shard, number)
            for shard, count in enumerate(index.counts)
            for number in range(count)
        ]
