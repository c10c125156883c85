"""What is wrong with one sample: why training would skip it, and what is only odd about it.

A sample is refused by the very functions that decode it for training, so that what is bad here is
what is quarantined there. One difference is by intent: training reads only the regions that it
meets until it has drawn enough, this reads all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.decode import (
    BadSampleError,
    Frame,
    agreed_size,
    cover,
    decode_sample,
    stated_boxes,
)
from datamodules.decoding.phrases import read_phrases
from datamodules.decoding.pictures import picture_size
from datamodules.decoding.run_lengths import run_lengths
from datamodules.inspection.findings import Kind
from datamodules.shards.annotation_schema import BLANK, TOO_LONG, schema_faults
from datamodules.shards.records import (
    AnnotationRecord,
    BadSample,
    RawSample,
    open_priors,
    read_annotation,
)
from tap_platform.config.stream import StreamConfig

AREA_TOLERANCE = 0.01
"""Share of a mask's pixels that its stored area may be off by; two pixels always may."""
BOX_TOLERANCE = 0.05
"""Share of a mask's width or height that an edge of its stored box may be off by; two pixels always
may: SA-1B counts to the last pixel, not behind it, and COCO's boxes are those of the polygons."""
NORM_RANGE = 0.9, 1.1
"""Lengths of priors that pass for unit length."""

_ALL_REGIONS = StreamConfig(regions_per_image=1 << 30, min_region_pixels=1)
_FRAME_SIZE, _MASK_SIZE = 64, 16
_FAULTS = 20
"""Schema faults of one sample that are told."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What samples are measured against."""

    concepts: frozenset[str] | None = None
    """Names of the vocabulary; None takes any category."""
    concept_dim: int | None = None
    """Width that the priors must have; None where no sample has any."""
    fast: bool = False
    """Whether images are left undecoded; their headers are read all the same."""


class Remark(NamedTuple):
    """A finding, without the sample's name."""

    kind: Kind
    region: int | None
    detail: str


class Verdict(NamedTuple):
    """What there is to say of a sample."""

    remarks: list[Remark]
    refusal: str | None
    """Why training skips it; None if it does not."""


def check_sample(raw: RawSample | BadSample, rules: Rules) -> Verdict:
    """Everything that is wrong with a sample. What training itself says of it is the last word."""
    if isinstance(raw, BadSample):
        return Verdict([Remark(Kind.UNREADABLE, None, raw.reason)], raw.reason)
    remarks = list(_remarks(raw, rules))
    reasons = [remark.detail for remark in remarks if remark.kind.is_bad]
    refusal = None if rules.fast else _refusal(raw, rules)
    if refusal is not None and not reasons:
        remarks.append(Remark(Kind.IMAGE, None, refusal))
    return Verdict(remarks, refusal or next(iter(reasons), None))


def _refusal(raw: RawSample, rules: Rules) -> str | None:
    """Why training would skip a sample if it met each of its regions."""
    frame = Frame(_FRAME_SIZE, _MASK_SIZE, rules.concept_dim or 1)
    try:
        decode_sample(raw, 0, _ALL_REGIONS, frame, {}, training=False)
    except BadSampleError as error:
        return str(error)
    return None


def _remarks(raw: RawSample, rules: Rules) -> Iterator[Remark]:
    """What is wrong, short of the pixels."""
    try:
        record = read_annotation(raw.annotation)
    except ValueError as error:
        yield Remark(Kind.ANNOTATION, None, str(error))
        return
    for fault in schema_faults(raw.annotation)[:_FAULTS]:
        left_out = ".phrases[" in fault.field and fault.message in (BLANK, TOO_LONG)
        kind = Kind.PHRASE if left_out else Kind.SCHEMA
        yield Remark(kind, fault.region, f"{fault.field}: {fault.message}")
    kind = Kind.IMAGE
    try:
        picture_size(raw.image)
        kind = Kind.SIZE
        agreed_size(raw.image, record)
    except ValueError as error:
        yield Remark(kind, None, str(error))
        return
    dropped: set[int] = set()
    for number, region in enumerate(record.regions):
        for kind, detail in _region_faults(region, record, rules):
            if kind is Kind.EMPTY_REGION:
                dropped.add(number)
            yield Remark(kind, number, detail)
    yield from _priors_faults(raw, len(record.regions), dropped, rules)


def _region_faults(
    region: Any, record: AnnotationRecord, rules: Rules
) -> Iterator[tuple[Kind, str]]:
    """What is wrong with a region's box, mask, name and phrases."""
    try:
        box = stated_boxes([region])
    except ValueError as error:
        yield Kind.ANNOTATION, str(error)
        return
    if not cover(box, record).all():
        yield Kind.EMPTY_REGION, "the box covers no pixel of the image"
        return
    name = region.get("category")
    if rules.concepts is not None and isinstance(name, str) and name not in rules.concepts:
        yield Kind.CATEGORY, f"{name!r} is not in the vocabulary"
    try:
        read_phrases([region], "own")
    except ValueError as error:
        yield Kind.ANNOTATION, str(error)
    if region.get("segmentation") is None:
        return
    try:
        runs = run_lengths(region["segmentation"], record.height, record.width)
    except ValueError as error:
        yield Kind.MASK, str(error)
        return
    if not runs[1::2].any():
        yield Kind.EMPTY_REGION, "the mask covers no pixel"
        return
    yield from _mask_faults(region, box[0], runs, record.height)


def _mask_faults(
    region: dict[str, Any], box: NDArray[np.float64], runs: NDArray[np.int64], height: int
) -> Iterator[tuple[Kind, str]]:
    """Where a stored area or box differs from a mask that is not empty."""
    pixels, area = int(runs[1::2].sum()), region.get("area")
    if isinstance(area, int | float) and abs(area - pixels) > max(2.0, AREA_TOLERANCE * pixels):
        yield Kind.AREA, f"{area:g} pixels are stored, the mask has {pixels}"
    tight = _tight_box(runs, height)
    stored = np.concatenate([box[:2], box[:2] + box[2:]])
    sides = np.array([tight[2] - tight[0], tight[3] - tight[1]] * 2)
    if (np.abs(stored - tight) > np.maximum(2.0, BOX_TOLERANCE * sides)).any():
        told = ", ".join(f"{edge:g}" for edge in stored)
        yield Kind.BOX, f"the box reaches {told}, the mask {', '.join(map(str, tight))}"


def _tight_box(runs: NDArray[np.int64], height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a mask that is not empty, in pixels."""
    ends = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    ends, lengths = ends[lengths > 0], lengths[lengths > 0]
    first, last = ends - lengths, ends - 1
    left, right = int(first[0] // height), int(last[-1] // height) + 1
    if (first // height != last // height).any():
        return left, 0, right, height
    return left, int((first % height).min()), right, int((last % height).max()) + 1


def _priors_faults(
    raw: RawSample, regions: int, dropped: set[int], rules: Rules
) -> Iterator[Remark]:
    """What is wrong with the priors; a row of zeros says that a region has none."""
    if raw.priors is None:
        return
    try:
        priors = open_priors(raw.priors, regions, rules.concept_dim or 1)
    except ValueError as error:
        yield Remark(Kind.PRIORS, None, str(error))
        return
    if priors.dtype != np.float16:
        yield Remark(Kind.PRIOR_TYPE, None, f"{priors.dtype}, where float16 is enough")
    norms = np.linalg.norm(priors.astype(np.float64), axis=1)
    finite = np.isfinite(norms)
    for number in np.flatnonzero(~finite).tolist():
        if number not in dropped:
            yield Remark(Kind.PRIORS, number, "the priors hold NaN or infinity")
    odd = finite & (norms > 0) & ((norms < NORM_RANGE[0]) | (norms > NORM_RANGE[1]))
    for number in np.flatnonzero(odd).tolist():
        yield Remark(Kind.PRIOR_NORM, number, f"its prior has length {norms[number]:.3g}")
