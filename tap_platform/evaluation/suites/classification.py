"""Zero-shot classification of true boxes, by the released evaluation's rules.

Every pair of box and category with a probability above a thousandth is a detection, scored by the
root of that probability times the predicted IoU; a category's boxes are thinned by NMS, and an
image keeps its 300 best.

Source: Tokenize Anything via Prompting, section 4.3; the released evaluation script.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datamodules.importers.coco_files import concept_name
from datamodules.vocabulary import Vocabulary
from tap_platform.evaluation.suites.average_precision import average_precision
from tap_platform.evaluation.suites.ground_truth import GroundTruth, ImageId, Record, boxes_of
from tap_platform.evaluation.suites.suite import Asker, Case, SuiteName, SuiteResult
from tap_platform.models.concepts import ConceptProjector

if TYPE_CHECKING:
    from tap_platform.evaluation.suites.view import ImageView

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
ScoreRule = Literal["own", "published"]
"""`own`: every pair is scored by the predicted IoU of its own box. `published`: as the released
script does, whose product of a column and a row is a square: the image's last box lends its IoU to
all pairs, and NMS reads that of the first. The papers' numbers come from it."""

MIN_PROBABILITY = 0.001
NMS_IOU = 0.5
MAX_DETECTIONS = 300


class Detections(NamedTuple):
    """Pairs of a box and a category."""

    boxes: Places
    """Which box, int64 [K]."""
    categories: Places
    """Which row of the vocabulary, int64 [K]."""
    scores: Floats
    """float32 [K]."""

    def at(self, places: Places) -> Detections:
        """Some of the pairs."""
        return Detections(self.boxes[places], self.categories[places], self.scores[places])


class Question(NamedTuple):
    """What a worker is told of an image."""

    boxes: Floats
    """[M, 4], xyxy in pixels of the image."""
    categories: Places
    """The true row of the vocabulary, int64 [M]."""


class Classified(NamedTuple):
    """What a model calls the boxes of one image."""

    detections: Detections
    true_probability: Floats
    """Of the true category, [M]."""
    rank: Places
    """How many categories are likelier than the true one, int64 [M]."""
    likeliest: Places
    """The row of the likeliest category, int64 [M]."""
    probability: Floats
    """Of the likeliest category, [M]."""


@dataclass(frozen=True)
class BoxClassifier:
    """Names boxes; it travels to workers."""

    embeddings: Floats
    """The categories in the order of the ground truth, [V, D]."""
    temperature: float
    rule: ScoreRule

    def __call__(self, view: ImageView, question: Question) -> Classified:
        """Classify the boxes of an image by the semantic token that answers a box."""
        output = view.ask_boxes(question.boxes)
        vocabulary = torch.from_numpy(self.embeddings).to(output.iou.device)
        projector = ConceptProjector(vocabulary, self.temperature)
        chances = projector(output.concept_embeddings[:, 0]).exp().cpu().numpy()
        own = np.take_along_axis(chances, question.categories[:, None], 1)
        likeliest = chances.argmax(1)
        return Classified(
            detections=detect(question.boxes, chances, output.iou[:, 0].cpu().numpy(), self.rule),
            true_probability=own[:, 0],
            rank=(chances > own).sum(1),
            likeliest=likeliest,
            probability=chances[np.arange(len(chances)), likeliest],
        )


def detect(boxes: Floats, probabilities: Floats, iou: Floats, rule: ScoreRule) -> Detections:
    """Turn the probabilities of an image's boxes into detections.

    Args:
        boxes: float32 [M, 4], xyxy.
        probabilities: float32 [M, V].
        iou: the predicted IoU of each box's mask, float32 [M]; it is brought to [0, 1].
        rule: which IoU scores which pair.

    Returns:
        At most `MAX_DETECTIONS`, and those that tie with the last of them; the best first.
    """
    box, category = np.nonzero(probabilities > MIN_PROBABILITY)
    if not len(box):
        return Detections(box, category, np.zeros(0, np.float32))
    chances, trust = probabilities[box, category], iou.clip(0, 1)[box]
    first, last = (trust, trust) if rule == "own" else (trust[0], trust[-1])
    pairs = Detections(box, category, np.sqrt(chances * last))
    pairs = pairs.at(_thinned(pairs, np.sqrt(chances * first), _box_ious(boxes)))
    if len(pairs.scores) > MAX_DETECTIONS:
        least = np.partition(pairs.scores, -MAX_DETECTIONS)[-MAX_DETECTIONS]
        pairs = pairs.at(np.flatnonzero(pairs.scores >= least))
    return pairs.at(np.argsort(-pairs.scores, kind="stable"))


def _box_ious(boxes: Floats) -> NDArray[np.float64]:
    """IoU of each box with each, [M, M]."""
    sides = boxes.astype(np.float64)
    sides[:, 2:] -= sides[:, :2]
    ious: NDArray[np.float64] = coco_mask.iou(sides, sides, [0] * len(sides))
    return ious


def _thinned(pairs: Detections, scores: Floats, ious: NDArray[np.float64]) -> Places:
    """Which pairs are left when, in each category, a better one removes those that it overlaps."""
    kept: list[int] = []
    order = np.lexsort((-scores, pairs.categories))
    for same in np.split(order, np.flatnonzero(np.diff(pairs.categories[order])) + 1):
        left = same
        while len(left):
            kept.append(int(left[0]))
            others = left[1:]
            left = others[ious[pairs.boxes[left[0]], pairs.boxes[others]] <= NMS_IOU]
    return np.sort(np.array(kept, np.int64))


def category_embeddings(truth: GroundTruth, vocabulary: Vocabulary) -> Floats:
    """The vocabulary's rows in the order of the ground truth's categories, float32 [V, D].

    Categories are found by their names. A vocabulary of as many names that are not all the same is
    taken to be in the order of the categories, as the released files are.

    Raises:
        ValueError: if the vocabulary lacks categories.
    """
    known = set(vocabulary.names)
    names = [concept_name(str(each["name"]), known) for each in truth.categories]
    if None not in names:
        return vocabulary.embeddings[[vocabulary.indexes[str(name)] for name in names]]
    if len(known) == len(names):
        return vocabulary.embeddings
    pairs = zip(truth.categories, names, strict=True)
    missing = [each["name"] for each, name in pairs if name is None]
    raise ValueError(
        f"the concepts lack {len(missing)} of the {len(names)} categories of {truth.origin}, such"
        f" as {missing[:5]}: give concepts that have them (--concepts)"
    )


@dataclass(frozen=True)
class ClassificationSuite:
    """AP of true boxes that a model names, and how often the name is right."""

    truth: GroundTruth
    vocabulary: Vocabulary
    temperature: float
    rule: ScoreRule = "own"
    name: SuiteName = "classification"

    def requests(self) -> Mapping[ImageId, Question]:
        """The boxes of each image and what they are."""
        rows = {each["id"]: row for row, each in enumerate(self.truth.categories)}
        found = {
            identity: Question(
                boxes_of(annotations),
                np.array([rows[each["category_id"]] for each in annotations], np.int64),
            )
            for identity, annotations in self.truth.by_image.items()
        }
        if not found:
            raise ValueError(f"{self.truth.origin} has no box to classify")
        return found

    def asker(self) -> Asker:
        """Who classifies."""
        embeddings = category_embeddings(self.truth, self.vocabulary)
        return BoxClassifier(embeddings, self.temperature, self.rule)

    def score(self, answers: Mapping[ImageId, Classified]) -> SuiteResult:
        """AP of the named boxes, top-1 and top-5."""
        predictions = [
            prediction
            for identity, answer in answers.items()
            for prediction in self._predictions(identity, answer.detections)
        ]
        ranks = np.concatenate([answer.rank for answer in answers.values()])
        ap = average_precision(self.truth, predictions, "bbox")
        top = {f"top-{n}": float((ranks < n).mean()) for n in (1, 5)}
        return SuiteResult(
            suite=self.name,
            protocol=f"{self.truth.style.upper()} boxes named, true boxes",
            metrics={**ap, **top},
            counts={
                "images": len(answers),
                "boxes": len(ranks),
                "categories": len(self.truth.categories),
            },
            cases=[
                case
                for identity, answer in answers.items()
                for case in self._cases(identity, answer)
            ],
            predictions=predictions,
            notes=self._notes(),
            settings={"score": self.rule, "concepts": self.vocabulary.kind},
            named=[
                pair
                for identity, answer in answers.items()
                for pair in self._named(identity, answer)
            ],
        )

    def _named(self, identity: ImageId, answer: Classified) -> Iterator[tuple[str, str]]:
        annotations = self.truth.by_image[identity]
        for annotation, likeliest in zip(annotations, answer.likeliest.tolist(), strict=True):
            true = self.truth.category_names[annotation["category_id"]]
            yield true, str(self.truth.categories[likeliest]["name"])

    def _notes(self) -> tuple[str, ...]:
        rule = {
            "own": "each box is scored by its own predicted IoU",
            "published": "scored as published: the image's last box lends its predicted IoU to all",
        }
        return (rule[self.rule], f"concepts: {self.vocabulary.kind}")

    def _predictions(self, identity: ImageId, found: Detections) -> Iterator[Record]:
        annotations = self.truth.by_image[identity]
        for box, category, score in zip(*(column.tolist() for column in found), strict=True):
            yield {
                "image_id": identity,
                "category_id": self.truth.categories[category]["id"],
                "bbox": annotations[box]["bbox"],
                "score": score,
            }

    def _cases(self, identity: ImageId, answer: Classified) -> Iterator[Case]:
        rows = zip(self.truth.by_image[identity], *answer[1:], strict=True)
        for annotation, true_probability, rank, likeliest, probability in rows:
            left, top, width, height = annotation["bbox"]
            has_mask = bool(annotation.get("segmentation"))
            yield Case(
                image_id=identity,
                box=(left, top, left + width, top + height),
                point=None,
                goodness=float(true_probability - (probability if rank else 0)),
                measure=f"{true_probability:.0%} for the right name",
                wanted=self.truth.category_names[annotation["category_id"]],
                given=f"{self.truth.categories[likeliest]['name']} {probability:.0%}",
                correct=not rank,
                true_mask=self.truth.mask(annotation) if has_mask else None,
            )
