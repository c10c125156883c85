"""Average precision as COCO and LVIS publish it, computed by their own code or by an equal."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from tap_platform.evaluation.suites.ground_truth import GroundTruth, Record

Kind = Literal["segm", "bbox"]
Implementation = Literal["faster-coco-eval", "pycocotools"]
COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The first six of COCO's summary, in its order."""
LVIS_METRICS = (*COCO_METRICS, "APr", "APc", "APf")
"""LVIS adds rare, common and frequent categories."""
ABSENT = -1.0
"""What both libraries say where there is nothing to measure, such as no small region."""


def average_precision(
    truth: GroundTruth,
    predictions: Sequence[Record],
    kind: Kind,
    implementation: Implementation = "faster-coco-eval",
) -> dict[str, float | None]:
    """AP over IoU 0.5 to 0.95, by size and, for LVIS, by frequency of the category.

    Args:
        truth: COCO's protocol (at most 100 predictions an image) or LVIS's (300, and only the
            categories that were looked for) is taken as its style says.
        predictions: COCO results; those of `segm` without boxes, as sizes are taken from the boxes
            where both are given.
        kind: masks or boxes.
        implementation: of COCO's protocol. faster-coco-eval gives the same numbers as pycocotools.

    Returns:
        Shares from 0 to 1 by name; None where there is nothing to measure.
    """
    names = LVIS_METRICS if truth.style == "lvis" else COCO_METRICS
    if not predictions:
        return dict.fromkeys(names, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        if truth.style == "lvis":
            values = _by_lvis(truth, predictions, kind)
        else:
            values = _by_coco(truth, predictions, kind, implementation)
    return {name: None if values[name] == ABSENT else values[name] for name in names}


def _by_coco(
    truth: GroundTruth, predictions: Sequence[Record], kind: Kind, implementation: Implementation
) -> dict[str, float]:
    data_set, evaluation = _coco_classes(implementation)
    wanted = data_set()
    # Both libraries write into what they are given.
    wanted.dataset = copy.deepcopy(truth.dataset)
    wanted.createIndex()
    found = wanted.loadRes(copy.deepcopy(list(predictions)))
    measured = evaluation(wanted, found, kind)
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    return dict(zip(COCO_METRICS, map(float, measured.stats[:6]), strict=True))


def _coco_classes(implementation: Implementation) -> tuple[Any, Any]:
    if implementation == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    import faster_coco_eval

    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _by_lvis(truth: GroundTruth, predictions: Sequence[Record], kind: Kind) -> dict[str, float]:
    from lvis import LVIS, LVISEval, LVISResults

    class Lvis(LVIS):
        """LVIS reads files only; this one is given its content."""

        def __init__(self, content: Record) -> None:
            self.logger = logging.getLogger("lvis")
            self.dataset = content
            self._create_index()

    logging.getLogger("lvis").setLevel(logging.ERROR)
    wanted = Lvis(copy.deepcopy(truth.dataset))
    found = LVISResults(wanted, copy.deepcopy(list(predictions)))
    measured = LVISEval(wanted, found, kind)
    with _numpy_with_float():
        measured.run()
    return {name: float(measured.results[name]) for name in LVIS_METRICS}


@contextlib.contextmanager
def _numpy_with_float() -> Iterator[None]:
    """The name that lvis uses and numpy has dropped."""
    np.float = float  # type: ignore[attr-defined] # noqa: NPY001
    try:
        yield
    finally:
        del np.float  # type: ignore[attr-defined] # noqa: NPY001
