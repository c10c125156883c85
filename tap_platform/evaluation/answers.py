"""Asking a model about the regions of a batch, by their boxes and by one point each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from tap_platform.evaluation.interior import interior_cells
from tap_platform.objectives.prompts import Prompts, box_prompts, click_prompts

if TYPE_CHECKING:
    from datamodules.stream.batch import RegionBatch
    from tap_platform.models import RegionOutput, Tap


class Answers(NamedTuple):
    """What a model says about M regions, prompted in two ways."""

    by_box: RegionOutput
    """Prompted with the exact boxes."""
    by_point: RegionOutput
    """Prompted with the deepest cell of each mask."""
    points: Tensor
    """float32 [M, 2]: that cell, (x, y) in pixels of the input frame."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients; on leaving, every module is as it was."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in trained:
            module.training = True


def ask(model: Tap, batch: RegionBatch) -> Answers:
    """The model's answers about every region of a batch on the model's device."""
    embeddings = model.encode(model.normalize(batch.pixels))

    def decode(prompts: Prompts) -> RegionOutput:
        return model.decode(embeddings, prompts.points, prompts.labels, batch.image_index)

    ratio = batch.pixels.shape[-1] / batch.masks.shape[-1]
    clicks = click_prompts(interior_cells(batch.masks), ratio)
    return Answers(decode(box_prompts(batch.boxes)), decode(clicks), clicks.points[:, 0])
