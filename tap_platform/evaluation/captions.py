"""How well a model describes held-out regions, each prompted by its exact box."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tap_platform.evaluation.answers import Answers, evaluation_mode
from tap_platform.evaluation.suites.captions import CaptionScores, compare_captions
from tap_platform.objectives.prompts import box_prompts
from tap_platform.prediction.captions import CaptionToken, Speech
from tap_platform.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from datamodules.stream.batch import RegionBatch
    from tap_platform.models import RegionOutput, Tap


ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True)
class CaptionedAnswer:
    """What a model, and what people say about one region."""

    image: str
    """Key of the image."""
    box: tuple[float, ...]
    """The prompt, xyxy in pixels of the picture as the model sees it, its long side the frame's."""
    references: tuple[str, ...]
    """What people say, at least one phrase."""
    caption: str
    concept: str | None
    """The region's name in the vocabulary; None if it has none there."""

    @property
    def names_concept(self) -> bool:
        """Whether what the caption is about has all words of the concept's name, in their order.

        Other words may stand between them: `a red striped star` names `red star`. What follows the
        next article is about something else: `a pink star behind a red star` does not.
        """
        said = iter(_subject(self.caption))
        return self.concept is not None and all(word in said for word in _words(self.concept))


@dataclass(frozen=True)
class CaptionMeans:
    """Scores of captions, over all regions that people have described."""

    cider: float
    """CIDEr, 0 and more; 10 is a perfect caption, 1 a good one."""
    meteor: float | None
    """METEOR, from 0 to 1; None without Java."""
    names_concept: float | None
    """Share of the captions of named regions that are about what the name says; None if no
    described region has a name."""
    captions: int
    """How many regions were described."""


@dataclass(frozen=True)
class ScoredCaptions:
    """Scores of captions together and one by one."""

    means: CaptionMeans
    cider: list[float]
    """CIDEr of each."""
    notes: tuple[str, ...]
    """What is amiss, if Java is missing."""


def caption_regions(
    model: Tap,
    batches: Iterable[RegionBatch],
    tokenizer: Tokenizer,
    token: CaptionToken = "semantic",
    names: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> list[CaptionedAnswer]:
    """Describe held-out regions, by the likeliest word after word; an image is encoded once.

    Args:
        model: on any device; it is put in evaluation mode for the while.
        batches: held-out batches, on any device.
        tokenizer: the one that the text decoder was trained with.
        token: what prompted it in training.
        names: the concepts that the batches number; without them no region has a name.
        progress: is called after each batch with the number of images in it.

    Returns:
        One answer for each region that people have described, in the order of the batches.
    """
    speech = Speech(tokenizer, token)
    answers: list[CaptionedAnswer] = []
    for batch in (batch.to(model.pixel_mean.device) for batch in batches):
        with evaluation_mode(model):
            images = model.encode(model.normalize(batch.pixels))
            prompts = box_prompts(batch.boxes)
            by_box = model.decode(images, prompts.points, prompts.labels, batch.image_index)
            answers += caption_batch(model, batch, by_box, speech, names)
        if progress:
            progress(len(batch.pixels))
    return answers


class CaptionCollector:
    """Describes regions while others ask about them: listens to `evaluate_regions`."""

    def __init__(self, model: Tap, speech: Speech, names: Sequence[str]) -> None:
        """Listen to the answers of a model; see `caption_batch`."""
        self._model, self._speech, self._names = model, speech, names
        self.answers: list[CaptionedAnswer] = []
        """So far, in the order of the batches."""

    def __call__(self, batch: RegionBatch, answers: Answers) -> None:
        """Describe the regions of a batch from the answers to their boxes."""
        said = caption_batch(self._model, batch, answers.by_box, self._speech, self._names)
        self.answers += said


def caption_batch(
    model: Tap, batch: RegionBatch, by_box: RegionOutput, speech: Speech, names: Sequence[str]
) -> list[CaptionedAnswer]:
    """Describe the regions of a batch that people have described.

    The model and the batch are on one device; the caller sets evaluation mode.

    Args:
        model: who speaks.
        batch: M regions.
        by_box: its answers to their exact boxes.
        speech: how its tokens become words.
        names: see `caption_regions`.
    """
    rows = [row for row, phrases in enumerate(batch.phrases) if phrases]
    captions = speech.describe(model, speech.tokens_of(by_box)[rows, 0])
    images, concepts = batch.image_index.tolist(), batch.concepts.tolist()
    return [
        CaptionedAnswer(
            image=batch.keys[images[row]],
            box=tuple(batch.boxes[row].tolist()),
            references=batch.phrases[row],
            caption=caption,
            concept=names[concepts[row]] if names and concepts[row] >= 0 else None,
        )
        for row, caption in zip(rows, captions, strict=True)
    ]


def score_answers(answers: Sequence[CaptionedAnswer]) -> ScoredCaptions:
    """Score captions, at least one, by CIDEr, METEOR and the concept's name."""
    (scored,) = compare_answers([answers])
    return scored


def compare_answers(speakers: Sequence[Sequence[CaptionedAnswer]]) -> list[ScoredCaptions]:
    """Score the captions of several speakers about the same regions, at least one."""
    captions = [[answer.caption for answer in answers] for answers in speakers]
    scores = compare_captions(captions, [answer.references for answer in speakers[0]])
    return [_scored(*each) for each in zip(speakers, scores, strict=True)]


def _scored(answers: Sequence[CaptionedAnswer], scores: CaptionScores) -> ScoredCaptions:
    named = [answer.names_concept for answer in answers if answer.concept is not None]
    cider = scores.metrics["CIDEr"]
    assert cider is not None
    means = CaptionMeans(
        cider=cider,
        meteor=scores.metrics["METEOR"],
        names_concept=sum(named) / len(named) if named else None,
        captions=len(answers),
    )
    return ScoredCaptions(means, scores.cider, scores.notes)


def answer_records(
    answers: Sequence[CaptionedAnswer], scored: ScoredCaptions
) -> list[dict[str, Any]]:
    """Every answer with its score, in order, ready for JSON."""
    return [
        {
            "image": answer.image,
            "box": [round(side, 2) for side in answer.box],
            "references": list(answer.references),
            "caption": answer.caption,
            "cider": cider,
            "concept": answer.concept,
            "names_concept": answer.names_concept if answer.concept is not None else None,
        }
        for answer, cider in zip(answers, scored.cider, strict=True)
    ]


def _subject(text: str) -> list[str]:
    """The words of a caption up to an article that does not begin it."""
    words = _words(text)
    later = (place for place, word in enumerate(words) if place and word in ARTICLES)
    return words[: next(later, None)]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
