"""Instance segmentation: the boxes of a detector, or the true ones, turned into masks.

Source: Tokenize Anything via Prompting, section 4.2; the released evaluation script.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from tap_platform.evaluation.suites.average_precision import average_precision
from tap_platform.evaluation.suites.ground_truth import GroundTruth, ImageId, Record, boxes_of
from tap_platform.evaluation.suites.suite import Asker, Case, SuiteName, SuiteResult

if TYPE_CHECKING:
    from tap_platform.evaluation.suites.view import ImageView

Boxes = NDArray[np.float32]


class Segmented(NamedTuple):
    """A model's masks for the boxes of one image."""

    masks: list[Record]
    """COCO run-length encodings of the image's size."""
    iou: NDArray[np.float32]
    """[M], the model's own estimate of each mask's IoU."""


def segment_boxes(view: ImageView, boxes: Boxes) -> Segmented:
    """Segment boxes: mask 0 is the one that answers a box."""
    output = view.ask_boxes(boxes)
    return Segmented(view.encoded_masks(output.masks[:, 0]), output.iou[:, 0].cpu().numpy())


@dataclass(frozen=True)
class InstanceSuite:
    """AP of the masks that a model gives for boxes.

    A detector's boxes keep its scores and categories. The true boxes keep their categories, and are
    scored by the model's estimate of its mask, as nothing else ranks them.
    """

    truth: GroundTruth
    detections: Sequence[Record] | None = None
    """A detector's boxes; None for the true ones."""
    name: SuiteName = "instances"

    def __post_init__(self) -> None:
        unknown = {each["category_id"] for each in self.detections or ()}
        unknown -= set(self.truth.category_names)
        if unknown:
            raise ValueError(
                f"the detector's boxes have categories that {self.truth.origin} lacks:"
                f" {sorted(unknown, key=str)[:5]}; are they of this data set?"
            )
        if not any(self._asked.values()):
            raise ValueError(
                f"there is no box to segment: none of the boxes is of an image of"
                f" {self.truth.origin}"
            )

    @property
    def _asked(self) -> dict[ImageId, list[Record]]:
        """The records whose boxes are segmented, by image."""
        if self.detections is None:
            return self.truth.by_image
        grouped: dict[ImageId, list[Record]] = defaultdict(list)
        for detection in self.detections:
            if detection["image_id"] in self.truth.images:
                grouped[detection["image_id"]].append(detection)
        return dict(grouped)

    def requests(self) -> Mapping[ImageId, Boxes]:
        """The boxes of each image, float32 [M, 4] xyxy in pixels of the image."""
        return {identity: boxes_of(records) for identity, records in self._asked.items()}

    def asker(self) -> Asker:
        """Who segments."""
        return segment_boxes

    def score(self, answers: Mapping[ImageId, Segmented]) -> SuiteResult:
        """AP of the masks, and the masks in COCO's result format."""
        asked = self._asked
        predictions = [
            prediction
            for identity, answer in answers.items()
            for prediction in self._predictions(asked[identity], answer)
        ]
        cases = [
            case
            for identity, answer in answers.items()
            for case in self._cases(identity, asked[identity], answer)
        ]
        source = "true" if self.detections is None else "detector"
        return SuiteResult(
            suite=self.name,
            protocol=f"{self.truth.style.upper()} masks from {source} boxes",
            metrics=average_precision(self.truth, predictions, "segm"),
            counts={"images": len(answers), "boxes": len(predictions)},
            cases=cases,
            predictions=predictions,
            notes=() if self.detections else ("true boxes: scored by the predicted IoU",),
        )

    def _predictions(self, records: Sequence[Record], answer: Segmented) -> Iterator[Record]:
        for record, mask, iou in zip(records, *answer, strict=True):
            yield {
                "image_id": record["image_id"],
                "category_id": record["category_id"],
                "segmentation": mask,
                "score": float(record.get("score", iou)),
            }

    def _cases(
        self, identity: ImageId, records: Sequence[Record], answer: Segmented
    ) -> Iterator[Case]:
        """Each box with the true region of its category that its mask covers best."""
        true = self.truth.by_image.get(identity, [])
        masks = [self.truth.mask(each) for each in true]
        overlaps = coco_mask.iou(answer.masks, masks, [0] * len(masks)) if masks else None
        for row, record in enumerate(records):
            best, iou = _best_match(record, true, overlaps, row)
            left, top, width, height = record["bbox"]
            # A detector's many doubtful boxes are neither its best nor its worst.
            confidence = record.get("score", 1.0)
            yield Case(
                image_id=identity,
                box=(left, top, left + width, top + height),
                point=None,
                goodness=confidence * (iou - 0.5),
                measure=f"IoU {iou:.2f}",
                wanted=self.truth.category_names[record["category_id"]],
                given=f"score {confidence:.2f}" if "score" in record else "",
                true_mask=None if best is None else masks[best],
                given_mask=answer.masks[row],
            )


def _best_match(
    record: Record, true: Sequence[Record], overlaps: Any, row: int
) -> tuple[int | None, float]:
    """Which true region a box's mask is to be compared with, and the IoU of the masks.

    A true box is compared with its own region.
    """
    if "id" in record and "score" not in record:
        own = next(i for i, each in enumerate(true) if each["id"] == record["id"])
        return own, float(overlaps[row, own])
    same = [i for i, each in enumerate(true) if each["category_id"] == record["category_id"]]
    if not same:
        return None, 0.0
    best = max(same, key=lambda i: overlaps[row, i])
    return best, float(overlaps[row, best])
