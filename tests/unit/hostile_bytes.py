"""What the tests of hostile bytes share: a small sample, and ways to spoil it."""

import io

import numpy as np
import orjson
from data_samples import raw, sample
from PIL import Image

from datamodules.decoding.decode import Frame, decode_sample
from datamodules.shards.records import encode_annotation
from tap_platform.config.data import ShardSource

FRAME = Frame(size=64, mask_size=16, concept_dim=4)
SOURCE = ShardSource(path="", min_region_pixels=1)
HEIGHT, WIDTH = SIZE = (120, 160)
PIXELS = HEIGHT * WIDTH


def decode(seed=1, training=False, **changes):
    made = sample(height=SIZE[0], width=SIZE[1])
    bytes_ = raw(made, **changes)
    return decode_sample(bytes_, seed, SOURCE, FRAME, {"dog": 0, "cat": 1}, training=training)


def detailed(**options):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=80, **options)
    return buffer.getvalue()


def annotation(**changes):
    """The JSON of a sample; `changes` are made in its first region."""
    record = orjson.loads(encode_annotation(sample(height=SIZE[0], width=SIZE[1])))
    for each in record["annotations"]:
        each.update(changes)
    return orjson.dumps(record)


def mask(counts, size=SIZE):
    return annotation(segmentation={"size": size, "counts": counts})


def npy(header, body=b""):
    text = header.encode("latin-1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def shaped(shape, descr="<f2", order="False"):
    return f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}"
