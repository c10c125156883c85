"""What the papers and the released notebooks report, as rows to stand beside ours.

Shares are in percent, as they are printed there. Sources: the released notebooks of Tokenize
Anything; Open-Vocabulary SAM, tables 1, 4 and S2; Segment and Caption Anything's results on Visual
Genome.
"""

from __future__ import annotations

from typing import NamedTuple

from tap_platform.evaluation.suites.suite import SuiteName


class PaperRow(NamedTuple):
    """One model's published numbers by one protocol."""

    suite: SuiteName
    protocol: str
    """In the words of `SuiteResult.protocol`; numbers of another protocol do not compare."""
    model: str
    data: str
    metrics: dict[str, float]


_COCO_MASKS = "COCO masks from detector boxes"
_LVIS_MASKS = "LVIS masks from detector boxes"
_CENTRE = "COCO mask mIoU, centre point"
_COCO_TRUE = "COCO val2017, base or novel classes"
_LVIS_NAMES = "LVIS boxes named, true boxes"
_REGIONS = "captions of regions"
_COCO_DATA = "COCO val2017, ViTDet-H boxes"
_LVIS_DATA = "LVIS v1 val, ViTDet-H boxes"
_LVIS_BOXES = "LVIS v1 val, true boxes"
_VG = "Visual Genome test, true boxes"

# For each model: AP of COCO masks, of LVIS masks, of LVIS names, and captions.
_TAP = {
    "TAP-B v1.0": (
        44.9,
        (41.7, 33.1, 42.7, 44.2),
        (56.4, 55.6, 55.5, 57.7),
        (11.9, 17.4, 35.5, 149.2),
    ),
    "TAP-L v1.0": (
        45.6,
        (42.6, 33.3, 43.6, 45.5),
        (58.7, 59.9, 58.2, 58.6),
        (12.0, 17.5, 35.7, 150.7),
    ),
    "TAP-B v1.1": (
        45.1,
        (42.2, 33.6, 43.1, 45.0),
        (57.4, 58.6, 56.8, 57.5),
        (12.2, 17.7, 36.0, 152.3),
    ),
    "TAP-L v1.1": (
        46.0,
        (43.0, 33.7, 44.1, 46.0),
        (59.1, 61.7, 58.9, 58.3),
        (12.4, 17.9, 36.2, 154.7),
    ),
    "TAP-H v1.1": (
        46.3,
        (43.2, 33.7, 44.1, 46.3),
        (59.6, 61.6, 60.0, 58.2),
        (12.4, 17.8, 36.2, 154.2),
    ),
}
_LVIS_COLUMNS = ("AP", "APr", "APc", "APf")
_TEXT_COLUMNS = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


def _tap_rows() -> list[PaperRow]:
    rows: list[PaperRow] = []
    for model, (coco, masks, names, texts) in _TAP.items():
        lvis = dict(zip(_LVIS_COLUMNS, masks, strict=True))
        named = dict(zip(_LVIS_COLUMNS, names, strict=True))
        captions = dict(zip(_TEXT_COLUMNS, texts, strict=True))
        rows += [
            PaperRow("instances", _COCO_MASKS, model, _COCO_DATA, {"AP": coco}),
            PaperRow("instances", _LVIS_MASKS, model, _LVIS_DATA, lvis),
            PaperRow("classification", _LVIS_NAMES, model, _LVIS_BOXES, named),
            PaperRow("captions", _REGIONS, model, _VG, captions),
        ]
    return rows


def _other_rows() -> list[PaperRow]:
    sca = {
        "SCA GPT2-large": (38.0, 23.9, 16.6, 12.1, 17.4, 35.5, 148.8),
        "SCA LLaMA-3B": (38.0, 23.9, 16.7, 12.2, 17.4, 35.5, 149.8),
        "GRiT": (36.0, 22.1, 15.2, 11.2, 17.2, 34.5, 142.2),
    }
    columns = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
    return [
        PaperRow("instances", _COCO_MASKS, "OV-SAM", _COCO_DATA, {"AP": 48.8}),
        PaperRow("instances", _COCO_MASKS, "SAM-H (by OV-SAM)", _COCO_DATA, {"AP": 46.3}),
        PaperRow("instances", _LVIS_MASKS, "OV-SAM", _LVIS_DATA, {"AP": 44.0}),
        PaperRow("instances", _LVIS_MASKS, "SAM-H (by OV-SAM)", _LVIS_DATA, {"AP": 44.5}),
        PaperRow("prompts", _CENTRE, "OV-SAM, base", _COCO_TRUE, {"1 box": 81.5, "1 point": 68.4}),
        PaperRow("prompts", _CENTRE, "OV-SAM, novel", _COCO_TRUE, {"1 box": 84.0, "1 point": 65.2}),
        *(
            PaperRow("captions", _REGIONS, model, _VG, dict(zip(columns, values, strict=True)))
            for model, values in sca.items()
        ),
    ]


PAPER_ROWS = (*_tap_rows(), *_other_rows())


def rows_of(suite: SuiteName) -> list[PaperRow]:
    """The rows of one suite, in the order of the papers."""
    return [row for row in PAPER_ROWS if row.suite == suite]
