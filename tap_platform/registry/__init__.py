"""Models that people rely on: checkpoints as versions in MLflow's registry, and who is champion."""

from __future__ import annotations

MEASURES = {
    "final": "box_iou",
    "instances": "ap",
    "classification": "ap",
    "prompts": "1_box",
    "captions": "cider",
}
"""What a version is measured by, the table at the end of its run or a suite of `tap eval`; and the
measure of each that decides, unless another is named."""
