"""Samples and their regions, and how they look as bytes: SA-1B's own layout, with two additions.

A shard holds `KEY.jpg` (or `KEY.png`), `KEY.json` and, where a teacher has seen the regions,
`KEY.priors.npy`. The JSON holds `image` (image_id, width, height, file_name) and `annotations`;
ours adds `phrases` and `category` to an annotation, and every field that SA-1B has besides is
skipped, so the official files are read unchanged.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

MAX_ANNOTATION_BYTES = 16 * 2**20
"""More is taken for a JSON bomb: parsed, it may take 30 times the memory."""
MAX_REGIONS = 10_000
"""Images with more regions are taken for a fault of their source."""
MAX_PHRASE_CHARACTERS = 1000
"""A longer phrase is no description of a region, and is left out; the longest of Visual Genome are
a few hundred."""
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([^']{1,20})', 'fortran_order': False,"
    rb" 'shape': \((\d{1,18}), (\d{1,18})\), *\} *\n",
    re.DOTALL,
)
_FLOATS = frozenset(order + kind for order in (b"<", b">", b"=") for kind in (b"f2", b"f4", b"f8"))


@dataclass(slots=True)
class Region:
    """One object or part of an image."""

    segmentation: dict[str, Any] | None
    """COCO run-length encoding: `{"size": [height, width], "counts": str | bytes | list[int]}`;
    None where only the box is known."""
    box: tuple[float, float, float, float]
    """Left, top, width and height in pixels of the image."""
    area: float
    """Pixels that the mask, or else the box, covers."""
    category: str | None = None
    """Name of the region's concept, if known."""
    phrases: list[str] = field(default_factory=list)
    """What people say of the region."""
    predicted_iou: float = 1.0
    """The annotator's own estimate of the mask's quality, in [0, 1]."""
    stability_score: float = 1.0
    """How little the mask changes with its threshold, in [0, 1]."""


@dataclass(slots=True)
class Sample:
    """One image with its regions."""

    key: str
    image: bytes
    """An encoded JPEG or PNG."""
    width: int
    height: int
    regions: list[Region]
    priors: NDArray[np.float16] | None = None
    """Concept embeddings `[regions, D]`, in the order of the regions."""


@dataclass(slots=True)
class Annotation:
    """What `KEY.json` says: the size of the image in pixels, and its regions."""

    width: int
    height: int
    regions: list[Region]


@dataclass(slots=True)
class RawSample:
    """A sample as it lies in its shard: nothing is decoded."""

    shard: str
    key: str
    image: bytes
    annotation: bytes
    priors: bytes | None


@dataclass(slots=True)
class BadSample:
    """A sample that cannot be used, and why."""

    shard: str
    key: str
    reason: str


def image_extension(image: bytes) -> str:
    """`jpg` or `png`, by the file's first bytes.

    Raises:
        ValueError: if the image is neither.
    """
    if image.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    raise ValueError("the image is neither a JPEG nor a PNG")


def encode_annotation(sample: Sample) -> bytes:
    """The bytes of `KEY.json`."""
    image = {
        "image_id": sample.key,
        "width": sample.width,
        "height": sample.height,
        "file_name": f"{sample.key}.{image_extension(sample.image)}",
    }
    annotations = [_region_to_json(region) for region in sample.regions]
    return orjson.dumps({"image": image, "annotations": annotations})


def _region_to_json(region: Region) -> dict[str, Any]:
    return {
        "segmentation": region.segmentation and _encoding_to_json(region.segmentation),
        "bbox": list(region.box),
        "area": region.area,
        "predicted_iou": region.predicted_iou,
        "stability_score": region.stability_score,
        "phrases": region.phrases,
        "category": region.category,
    }


def _encoding_to_json(segmentation: dict[str, Any]) -> dict[str, Any]:
    counts = segmentation["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": list(segmentation["size"]), "counts": text}


class AnnotationRecord(NamedTuple):
    """What `KEY.json` says, its regions not read yet: whoever reads one checks what it needs."""

    width: int
    height: int
    regions: list[Any]


def read_annotation(data: bytes) -> AnnotationRecord:
    """Parse `KEY.json`, ours or SA-1B's, as far as its regions.

    Raises:
        ValueError: if it is not JSON, not in SA-1B's layout, or above `MAX_ANNOTATION_BYTES` or
            `MAX_REGIONS`.
    """
    if len(data) > MAX_ANNOTATION_BYTES:
        raise ValueError(
            f"the annotation has {len(data)} bytes; the limit is {MAX_ANNOTATION_BYTES}"
        )
    try:
        record = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the annotation is not JSON: {error}") from error
    try:
        image, regions = record["image"], record["annotations"]
        width, height = image["width"], image["height"]
    except (KeyError, TypeError) as error:
        raise _not_the_layout(error) from error
    if not (type(width) is type(height) is int and isinstance(regions, list)):
        raise _not_the_layout("width and height are not integers, or annotations is not a list")
    if len(regions) > MAX_REGIONS:
        raise ValueError(f"the annotation has {len(regions)} regions; the limit is {MAX_REGIONS}")
    return AnnotationRecord(width, height, regions)


def _not_the_layout(reason: object) -> ValueError:
    return ValueError(f"the annotation is not in SA-1B's layout: {str(reason)[:200]!r}")


def decode_annotation(data: bytes) -> Annotation:
    """Read `KEY.json`, ours or SA-1B's, with every region.

    Raises:
        ValueError: as `read_annotation`, or if a region is not in SA-1B's layout.
    """
    record = read_annotation(data)
    try:
        regions = [_region_from_json(each) for each in record.regions]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _not_the_layout(repr(error)) from error
    return Annotation(record.width, record.height, regions)


def _region_from_json(record: dict[str, Any]) -> Region:
    left, top, width, height = map(float, record["bbox"])
    category, phrases = record.get("category"), record.get("phrases", [])
    if not (category is None or isinstance(category, str)):
        raise TypeError("a category is not text")
    if not (isinstance(phrases, list) and all(isinstance(each, str) for each in phrases)):
        raise TypeError("phrases are not a list of texts")
    return Region(
        segmentation=record.get("segmentation"),
        box=(left, top, width, height),
        area=float(record["area"]),
        category=category,
        phrases=phrases,
        predicted_iou=float(record.get("predicted_iou", 1.0)),
        stability_score=float(record.get("stability_score", 1.0)),
    )


def encode_priors(priors: NDArray[np.floating[Any]]) -> bytes:
    """The bytes of `KEY.priors.npy`: float16 `[regions, D]`."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, priors.astype(np.float16), allow_pickle=False)
    return buffer.getvalue()


def decode_priors(data: bytes, regions: int, width: int) -> NDArray[np.floating[Any]]:
    """Read `KEY.priors.npy`; pickles are refused.

    Args:
        data: the file's bytes.
        regions: rows that the annotation calls for.
        width: columns that the model's concept space has.

    Returns:
        float `[regions, width]`, all finite, not writeable.

    Raises:
        ValueError: if the file is broken, of another shape or type, or holds NaN or infinity.
    """
    priors = open_priors(data, regions, width)
    if not np.isfinite(priors).all():
        raise ValueError("the priors hold NaN or infinity")
    return priors


def open_priors(data: bytes, regions: int, width: int) -> NDArray[np.floating[Any]]:
    """What `decode_priors` returns, without a copy and without a look at the numbers.

    Of the header only what numpy itself writes for a plain array is accepted, so nothing in it is
    evaluated, and nothing is allocated for what it promises.
    """
    header = _NPY_HEADER.match(data)
    if header is None:
        raise ValueError("the priors are not a numpy array of two dimensions, stored row by row")
    kind, rows, columns = header.groups()
    if kind not in _FLOATS:
        raise ValueError(f"the priors are not a numpy array of floats: {kind.decode('latin-1')!r}")
    if (int(rows), int(columns)) != (regions, width):
        raise ValueError(
            f"the priors have shape {[int(rows), int(columns)]}; the annotation's regions and the"
            f" model's concept_dim call for {[regions, width]}"
        )
    dtype = np.dtype(kind.decode("ascii"))
    start = 10 + int.from_bytes(data[8:10], "little")
    if header.end() != start or len(data) - start != regions * width * dtype.itemsize:
        raise ValueError(
            f"the priors are not a numpy array: {max(0, len(data) - start)} bytes of numbers, where"
            f" the shape calls for {regions * width * dtype.itemsize}"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(regions, width)
