"""What `KEY.json` must look like: SA-1B's layout with our additions, as a schema for machines.

`decode_annotation` reads less strictly than this, so that training goes on where only a detail is
odd; what breaks this schema and is read all the same is worth a look. Fields that SA-1B has besides
(`id`, `crop_box`, `point_coords`) are let through. `AnnotationFile.model_json_schema()` gives the
JSON schema.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError

from datamodules.shards.records import MAX_PHRASE_CHARACTERS

Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text that holds more than blanks."""
Phrase = Annotated[str, StringConstraints(pattern=r"\S", max_length=MAX_PHRASE_CHARACTERS)]
"""What is said of a region; others are left out when they are read."""


BLANK, TOO_LONG = "is blank", f"has more than {MAX_PHRASE_CHARACTERS} characters"
"""Faults that make a phrase be left out; any other one of phrases condemns the sample."""
_TOLD = {"string_pattern_mismatch": BLANK, "string_too_long": TOO_LONG}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class ImageFields(_Strict):
    """The image that an annotation is of."""

    width: int = Field(gt=0)
    """Pixels."""
    height: int = Field(gt=0)
    """Pixels."""
    file_name: Text | None = None
    image_id: int | str | None = None


class RunLengths(_Strict):
    """A mask in COCO's run-length encoding."""

    size: tuple[int, int] = Field(strict=False)
    """Height and width of the image."""
    counts: str | list[int]
    """Compressed, or the runs themselves."""


class RegionFields(_Strict):
    """One region."""

    segmentation: RunLengths | None = None
    """None where only a box is known."""
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)]
    """Left, top, width, height, in pixels of the image."""
    area: FiniteFloat = Field(ge=0)
    """Pixels."""
    predicted_iou: FiniteFloat = Field(1.0, ge=0)
    """SA-1B's own is an estimate, and may lie a little above 1."""
    stability_score: FiniteFloat = Field(1.0, ge=0, le=1)
    category: Text | None = None
    phrases: list[Phrase] = []


class AnnotationFile(_Strict):
    """The whole of `KEY.json`."""

    image: ImageFields
    annotations: list[RegionFields]


class SchemaFault(NamedTuple):
    """Where an annotation breaks the schema, and how."""

    region: int | None
    """Its place among the annotations; None if the fault is not of a region."""
    field: str
    """Path of the field, such as `annotations[3].bbox[1]`."""
    message: str


def schema_faults(annotation: bytes) -> list[SchemaFault]:
    """Everything in which the bytes of `KEY.json` break the schema, in their order."""
    try:
        AnnotationFile.model_validate_json(annotation)
    except ValidationError as error:
        return [
            _fault(each["loc"], each["type"], each["msg"])
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    return []


def _fault(place: tuple[int | str, ...], kind: str, message: str) -> SchemaFault:
    region = place[1] if place[:1] == ("annotations",) and len(place) > 1 else None
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    told = _TOLD.get(kind, message[:1].lower() + message[1:])
    return SchemaFault(region if isinstance(region, int) else None, field[1:], told)
