"""Mask mIoU by one point or one box, and by the best candidate (oracle) of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from tap_platform.evaluation.interior import interior_cells
from tap_platform.evaluation.suites.ground_truth import GroundTruth, ImageId, Record, boxes_of
from tap_platform.evaluation.suites.suite import Asker, Case, SuiteName, SuiteResult
from tap_platform.objectives.routing import route, select

if TYPE_CHECKING:
    from tap_platform.evaluation.suites.view import ImageView

METRICS = {
    "1 box": "mean IoU of mask 0, prompted by the exact box",
    "1 box (oracle)": "mean IoU of the best of the four masks, prompted by the exact box",
    "1 point": "mean IoU of the mask of 1 to 3 that the model scores best",
    "1 point (oracle)": "mean IoU of the best of masks 1 to 3",
}
"""What is measured at the image's own resolution; every region counts alike."""


class Region(NamedTuple):
    """What a worker is told of the regions of an image."""

    boxes: NDArray[np.float32]
    """[M, 4], xyxy in pixels of the image."""
    masks: list[Record]
    """The true masks, COCO run-length encodings."""


class Prompted(NamedTuple):
    """How well the regions of an image were segmented."""

    ious: NDArray[np.float32]
    """[M, 4], in the order of `METRICS`."""
    points: NDArray[np.float32]
    """[M, 2], where it was clicked, (x, y) in pixels of the image."""
    masks: list[Record]
    """The masks that the point gave, as picked by the model."""


def prompt_regions(view: ImageView, request: Region) -> Prompted:
    """Ask about regions by their boxes and by their deepest points."""
    true = torch.from_numpy(coco_mask.decode(request.masks)).permute(2, 0, 1).bool()
    points = deepest_points(true)
    by_box, by_point = view.ask_boxes(request.boxes), view.ask_points(points)
    box_ious, point_ious = (
        _candidate_ious(view, output.masks, true) for output in (by_box, by_point)
    )
    points_only = torch.zeros(len(true), dtype=torch.bool, device=by_point.iou.device)
    picked = route(points_only, by_point.iou)
    ious = (
        box_ious[:, 0],
        box_ious.amax(1),
        select(point_ious, picked.cpu()),
        point_ious[:, 1:].amax(1),
    )
    masks = view.encoded_masks(select(by_point.masks, picked))
    return Prompted(torch.stack(ious, 1).numpy(), points.numpy(), masks)


def deepest_points(masks: Tensor) -> Tensor:
    """The pixel deepest inside each mask, bool [M, H, W]: float32 [M, 2], (x, y)."""
    height, width = masks.shape[-2:]
    side = max(height, width)
    squares = F.pad(masks, (0, side - width, 0, side - height))
    return torch.cat([interior_cells(part) for part in squares.split(8)]).float()


def _candidate_ious(view: ImageView, logits: Tensor, true: Tensor) -> Tensor:
    """IoU of each of the four masks with the true one, float32 [M, 4]."""
    candidates = logits.shape[1]
    targets = true.repeat_interleave(candidates, 0)
    ious: list[Tensor] = []
    for masks in view.masks(logits.flatten(0, 1)):
        target = targets[sum(map(len, ious)) :][: len(masks)].to(masks.device)
        both, either = ((masks & target).sum((1, 2)), (masks | target).sum((1, 2)))
        ious.append((both / either.clamp(min=1)).cpu())
    return torch.cat(ious).view(-1, candidates)


@dataclass(frozen=True)
class PromptSuite:
    """Mean IoU of the masks that a point or a box gives."""

    truth: GroundTruth
    name: SuiteName = "prompts"

    def requests(self) -> Mapping[ImageId, Region]:
        """The regions of each image; those without a pixel are left out."""
        regions = {
            identity: [each for each in annotations if self._has_pixels(each)]
            for identity, annotations in self.truth.by_image.items()
        }
        found = {
            identity: Region(boxes_of(each), [self.truth.mask(one) for one in each])
            for identity, each in regions.items()
            if each
        }
        if not found:
            raise ValueError(f"{self.truth.origin} has no region with a mask to prompt for")
        return found

    def _has_pixels(self, annotation: Record) -> bool:
        if not annotation.get("segmentation"):
            return False
        return bool(coco_mask.area(self.truth.mask(annotation)))

    def asker(self) -> Asker:
        """Who prompts."""
        return prompt_regions

    def score(self, answers: Mapping[ImageId, Prompted]) -> SuiteResult:
        """Mean IoU over all regions."""
        ious = np.concatenate([answer.ious for answer in answers.values()])
        means = ious.mean(0, dtype=np.float64).tolist()
        return SuiteResult(
            suite=self.name,
            protocol=f"{self.truth.style.upper()} mask mIoU by prompt",
            metrics=dict(zip(METRICS, means, strict=True)),
            counts={"images": len(answers), "regions": len(ious)},
            cases=[
                case
                for identity, answer in answers.items()
                for case in self._cases(identity, answer)
            ],
            predictions=[],
            notes=("the point is the pixel deepest inside the region",),
        )

    def _cases(self, identity: ImageId, answer: Prompted) -> Iterator[Case]:
        annotations = [each for each in self.truth.by_image[identity] if self._has_pixels(each)]
        for annotation, ious, point, mask in zip(annotations, *answer, strict=True):
            iou = float(ious[2])
            yield Case(
                image_id=identity,
                box=None,
                point=(float(point[0]), float(point[1])),
                goodness=iou,
                measure=f"IoU {iou:.2f}",
                wanted=self.truth.category_names[annotation["category_id"]],
                given=f"best of three {ious[3]:.2f}",
                true_mask=self.truth.mask(annotation),
                given_mask=mask,
            )
