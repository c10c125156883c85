"""Batches and captions of the largest shapes that a job may meet, without any content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.order.plan import Position
from datamodules.stream.batch import RegionBatch
from tap_platform.config.model import TapConfig
from tap_platform.text.tokenizer import Tokenizer

CONCEPTS = 2560
"""Names in the vocabulary, as in the paper's merged list."""


def made_batch(config: TapConfig, images: int, regions: int) -> RegionBatch:
    """A batch of `images` with `regions` each, all with a mask, a prior and a phrase."""
    count, frame, cells = images * regions, config.image_size, config.mask_size
    return RegionBatch(
        pixels=torch.zeros(images, 3, frame, frame, dtype=torch.uint8),
        masks=torch.ones(count, cells, cells, dtype=torch.bool),
        has_mask=torch.ones(count, dtype=torch.bool),
        boxes=torch.tensor([0.0, 0.0, frame, frame]).repeat(count, 1),
        image_index=torch.arange(images).repeat_interleave(regions),
        priors=torch.ones(count, config.concept_dim),
        has_prior=torch.ones(count, dtype=torch.bool),
        concepts=torch.zeros(count, dtype=torch.int64),
        weights=torch.ones(count),
        seeds=torch.arange(images),
        sizes=torch.full((images, 2), frame),
        keys=[str(number) for number in range(images)],
        phrases=[("",)] * count,
        position=Position(),
        step_regions=count,
        step_phrased=count,
    )


class _AllFull:
    """Makes of every phrase a caption as long as the text decoder takes."""

    pad_id = 0

    def encode_captions(
        self, texts: Sequence[str], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids, int64 [N, length], and bool [N], all of them to be learned."""
        return np.ones((len(texts), length), np.int64), np.ones(len(texts), np.bool_)


def full_captions() -> Tokenizer:
    """What stands in for a tokenizer: plans read no word pieces, and have no words."""
    return cast(Tokenizer, _AllFull())
