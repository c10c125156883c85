"""Samples and their regions, and how they look as bytes: SA-1B's own layout, with two additions.

A shard holds `KEY.jpg` (or `KEY.png`), `KEY.json` and, where a teacher has seen the regions,
`KEY.priors.npy`. The JSON holds `image` (image_id, width, height, file_name) and `annotations`;
ours adds `phrases` and `category` to an annotation, and every field that SA-1B has besides is
skipped, so the official files are read unchanged.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray


@dataclass(slots=True)
class Region:
    """One object or part of an image."""

    segmentation: dict[str, Any]
    """COCO run-length encoding: `{"size": [height, width], "counts": str | bytes | list[int]}`."""
    box: tuple[float, float, float, float]
    """Left, top, width and height in pixels of the image."""
    area: float
    """Pixels that the mask covers."""
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
    counts = region.segmentation["counts"]
    return {
        "segmentation": {
            "size": list(region.segmentation["size"]),
            "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
        },
        "bbox": list(region.box),
        "area": region.area,
        "predicted_iou": region.predicted_iou,
        "stability_score": region.stability_score,
        "phrases": region.phrases,
        "category": region.category,
    }


def decode_annotation(data: bytes) -> Annotation:
    """Read `KEY.json`, ours or SA-1B's.

    Raises:
        ValueError: if it is not JSON, or not in SA-1B's layout.
    """
    try:
        record = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the annotation is not JSON: {error}") from error
    try:
        image = record["image"]
        regions = [_region_from_json(each) for each in record["annotations"]]
        return Annotation(int(image["width"]), int(image["height"]), regions)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the annotation is not in SA-1B's layout: {error!r}") from error


def _region_from_json(record: dict[str, Any]) -> Region:
    left, top, width, height = map(float, record["bbox"])
    return Region(
        segmentation=record["segmentation"],
        box=(left, top, width, height),
        area=float(record["area"]),
        category=record.get("category"),
        phrases=record.get("phrases", []),
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
        float `[regions, width]`, all finite.

    Raises:
        ValueError: if the file is broken, of another shape or type, or holds NaN or infinity.
    """
    try:
        priors: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, MemoryError, SyntaxError) as error:
        raise ValueError(f"the priors are not a numpy array: {error}") from error
    if priors.dtype.kind != "f":
        raise ValueError(f"the priors are {priors.dtype}, not floating point")
    if priors.shape != (regions, width):
        raise ValueError(
            f"the priors have shape {list(priors.shape)}; the annotation's regions and the model's"
            f" concept_dim call for {[regions, width]}"
        )
    if not np.isfinite(priors).all():
        raise ValueError("the priors hold NaN or infinity")
    return priors
