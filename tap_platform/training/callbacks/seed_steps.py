"""Randomness of a step as a function of its number."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class SeedSteps(Callback):
    """Seed dropout and drop path anew at every micro-batch from (seed, micro-batch, rank).

    So are all generators that a recipe may draw from: Python's, numpy's, and torch's on all
    devices. A run that goes on from a checkpoint draws what an unbroken run draws, without any
    generator state in the checkpoint, and validation in between disturbs nothing.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of this process."""
        seed = step_seed(self.seed, batch_idx, trainer.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # the generator that others may draw from
        # Without a GPU `torch.manual_seed` keeps every call, with its stack, for a GPU to come.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)


def step_seed(seed: int, micro_batch: int, rank: int) -> int:
    """A 63-bit seed; an odd multiplier for each number keeps neighbours apart."""
    mixed = seed * 0x9E3779B97F4A7C15 + micro_batch * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB
    mixed ^= mixed >> 31
    return mixed & 0x7FFF_FFFF_FFFF_FFFF
