"""Captions of regions, by BLEU, METEOR, ROUGE-L and CIDEr.

Source: Tokenize Anything via Prompting, section 4.4; the released evaluation script. The metrics
are pycocoevalcap's, which needs Java for two things: see `java`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tap_platform.evaluation.suites.ground_truth import GroundTruth, ImageId, Record, boxes_of
from tap_platform.evaluation.suites.java import JavaMissingError, TextMetrics
from tap_platform.evaluation.suites.suite import Asker, Case, SuiteName, SuiteResult
from tap_platform.prediction.captions import CaptionToken, Speech
from tap_platform.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tap_platform.evaluation.suites.view import ImageView

# pycocoevalcap leaves these tokens out.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-lrb-", "-rrb-", "-lcb-", "-rcb-", *".?!,:-;", "--", "..."]
)
WHOLE_IMAGE = (np.nan,) * 4


class CaptionScores(NamedTuple):
    """How near candidates are to their references."""

    metrics: dict[str, float | None]
    """BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr; None for METEOR without Java."""
    cider: list[float]
    """CIDEr of each candidate; 10 is a perfect one among many."""
    notes: tuple[str, ...]
    """What is amiss, if Java is missing."""


def score_captions(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score captions by all metrics that can be had.

    Without Java, METEOR is left out and words are split by a plain rule instead of the Penn
    Treebank's, which changes the other metrics a little.

    Args:
        candidates: one for each region.
        references: at least one for each region.
    """
    (scores,) = compare_captions([candidates], references)
    return scores


def compare_captions(
    speakers: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> list[CaptionScores]:
    """The same for several speakers about the same regions: Java's slow start is paid once.

    Args:
        speakers: captions of each, one for each region.
        references: see `score_captions`.
    """
    try:
        with TextMetrics() as java:
            wanted = _grouped(java.tokenize(_flat(references)), references)
            found = [java.tokenize(captions) for captions in speakers]
            wanted, found = [_words_only(each) for each in wanted], [_words_only(f) for f in found]
            meteor: list[float | None] = [java.meteor(own, wanted)[0] for own in found]
        notes: tuple[str, ...] = ()
    except JavaMissingError as error:
        wanted = [[plain_tokens(text) for text in texts] for texts in references]
        found = [[plain_tokens(text) for text in captions] for captions in speakers]
        meteor = [None] * len(found)
        notes = (f"{error}; METEOR is left out, and words are split by a plain rule",)
    return [
        _all_metrics(own, wanted, score, notes) for own, score in zip(found, meteor, strict=True)
    ]


def plain_tokens(text: str) -> str:
    """Lower-case words and numbers, with blanks between them."""
    return " ".join(re.findall(r"\w+(?:[.,]\d+)*|'\w+", text.lower()))


def _words_only(lines: Sequence[str]) -> list[str]:
    """Tokenized lines without punctuation."""
    return [" ".join(word for word in line.split() if word not in PUNCTUATION) for line in lines]


def _flat(groups: Sequence[Sequence[str]]) -> list[str]:
    return [text for group in groups for text in group]


def _grouped(texts: Sequence[str], groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Take a flat list apart again, in groups of the same sizes."""
    rest = iter(texts)
    return [[next(rest) for _ in group] for group in groups]


def _all_metrics(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    meteor: float | None,
    notes: tuple[str, ...],
) -> CaptionScores:
    """The metrics of tokenized captions that need no Java, beside METEOR."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    wanted = {number: list(texts) for number, texts in enumerate(references)}
    found = {number: [text] for number, text in enumerate(candidates)}
    bleu, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    rouge, _ = Rouge().compute_score(wanted, found)
    cider, each = Cider().compute_score(wanted, found)
    metrics = {
        **{f"BLEU-{n}": float(bleu[n - 1]) for n in range(1, 5)},
        "METEOR": meteor,
        "ROUGE-L": float(rouge),
        "CIDEr": float(cider),
    }
    return CaptionScores(metrics, [float(score) for score in each], notes)


class CaptionedRegion(NamedTuple):
    """A region that people have described."""

    box: tuple[float, ...]
    """xyxy in pixels of the image; `WHOLE_IMAGE` for all of it."""
    references: list[str]


@dataclass(frozen=True)
class Captioner:
    """Describes boxes; it travels to workers."""

    tokenizer: Path
    """The SentencePiece model of the text decoder's training."""
    token: CaptionToken = "semantic"
    """What prompted the text decoder in its training."""

    def __call__(self, view: ImageView, boxes: NDArray[np.float32]) -> list[str]:
        """Captions of boxes [M, 4], by the token that answers a box."""
        height, width = view.size
        whole = np.array([0, 0, width, height], np.float32)
        output = view.ask_boxes(np.where(np.isnan(boxes), whole, boxes))
        return self._speech.describe(view.model, self._speech.tokens_of(output)[:, 0])

    @cached_property
    def _speech(self) -> Speech:
        return Speech(Tokenizer(self.tokenizer), self.token)

    def __getstate__(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "token": self.token}


@dataclass(frozen=True)
class CaptionSuite:
    """Captions of regions, or of whole images where only these are described."""

    truth: GroundTruth
    tokenizer: Path
    token: CaptionToken = "semantic"
    """See `Captioner`, as for the tokenizer."""
    name: SuiteName = "captions"

    @property
    def _regions(self) -> dict[ImageId, list[CaptionedRegion]]:
        regions: dict[ImageId, list[CaptionedRegion]] = defaultdict(list)
        wholes: dict[ImageId, list[str]] = defaultdict(list)
        for annotation in self.truth.annotations:
            texts = _captions(annotation)
            if texts and "bbox" in annotation:
                box = tuple(boxes_of([annotation])[0].tolist())
                regions[annotation["image_id"]].append(CaptionedRegion(box, texts))
            elif texts:
                wholes[annotation["image_id"]] += texts
        if not regions and not wholes:
            wholes.update(
                (identity, image["image_captions"])
                for identity, image in self.truth.images.items()
                if image.get("image_captions")
            )
        for identity, texts in wholes.items():
            regions[identity].append(CaptionedRegion(WHOLE_IMAGE, texts))
        return dict(regions)

    def requests(self) -> Mapping[ImageId, NDArray[np.float32]]:
        """The boxes of each image, float32 [M, 4]; NaN stands for the whole image."""
        found = {
            identity: np.array([each.box for each in regions], np.float32)
            for identity, regions in self._regions.items()
        }
        if not found:
            raise ValueError(
                f"{self.truth.origin} has no captions: neither its annotations (caption, captions)"
                " nor its images (image_captions) are described"
            )
        return found

    def asker(self) -> Asker:
        """Who describes."""
        return Captioner(self.tokenizer, self.token)

    def score(self, answers: Mapping[ImageId, list[str]]) -> SuiteResult:
        """All metrics over all regions together."""
        regions = self._regions
        rows = [
            (identity, region, text)
            for identity, texts in answers.items()
            for region, text in zip(regions[identity], texts, strict=True)
        ]
        scores = score_captions(
            [text for _, _, text in rows], [region.references for _, region, _ in rows]
        )
        whole = bool(np.isnan([region.box for _, region, _ in rows]).all())
        what = "whole images" if whole else "regions"
        return SuiteResult(
            suite=self.name,
            protocol=f"captions of {what}",
            metrics=scores.metrics,
            counts={"images": len(answers), "regions": len(rows)},
            cases=list(_cases(rows, scores.cider)),
            predictions=[
                {"image_id": identity, "caption": text, "references": region.references}
                for identity, region, text in rows
            ],
            notes=scores.notes,
        )


def _captions(annotation: Record) -> list[str]:
    texts: list[Any] = annotation.get("captions") or [annotation.get("caption")]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def _cases(
    rows: Sequence[tuple[ImageId, CaptionedRegion, str]], cider: Sequence[float]
) -> Iterator[Case]:
    for (identity, region, text), score in zip(rows, cider, strict=True):
        left, top, right, bottom = region.box
        yield Case(
            image_id=identity,
            box=None if np.isnan(left) else (left, top, right, bottom),
            point=None,
            goodness=score,
            measure=f"CIDEr {score:.2f}",
            wanted=region.references[0],
            given=text,
        )
