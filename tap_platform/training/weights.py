"""A model's weights, out of a training checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapCaptionConfig
from tap_platform.training.slices.slice import AVERAGE, BUFFER, WEIGHT
from tap_platform.training.slices.state import SlicedState

_MODEL = "model."
"""What the names of the model's tensors begin with in a recipe."""


def keeps_trained_only(job: JobConfig) -> bool:
    """Whether checkpoints hold only what is trained: the rest is as in the initial weights."""
    return isinstance(job.recipe, TapCaptionConfig) and job.recipe.train != "all"


def load_model_weights(checkpoint: Path, averaged: bool = False) -> dict[str, Tensor]:
    """The tensors of the model that a checkpoint folder holds, on the CPU, weights in float32.

    The parts that the workers wrote are joined. A run that trains a part of its model keeps that
    part only; `whole_weights` adds the others.

    Args:
        checkpoint: the folder.
        averaged: whether to take the moving averages of the weights that have one.

    Raises:
        CorruptCheckpointError: if the files hold no whole tensors.
    """
    state = SlicedState(checkpoint)
    averages = state.names(AVERAGE) if averaged else set()
    weights = {
        name: state.tensor(AVERAGE if name in averages else WEIGHT, name).float()
        for name in sorted(state.names(WEIGHT))
    }
    buffers = {name: state.tensor(BUFFER, name) for name in sorted(state.names(BUFFER))}
    return {
        name.removeprefix(_MODEL): tensor
        for name, tensor in (weights | buffers).items()
        if name.startswith(_MODEL)
    }
