"""A model's weights, out of a training checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapCaptionConfig

STATE_NAME = "state.ckpt"
"""Lightning's state in a checkpoint folder: a file, or a folder where every worker wrote a part."""


def keeps_trained_only(job: JobConfig) -> bool:
    """Whether checkpoints hold only what is trained: the rest is as in the initial weights."""
    return isinstance(job.recipe, TapCaptionConfig) and job.recipe.train != "all"


def load_model_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of the model that a checkpoint folder holds, on the CPU.

    The parts of a ZeRO checkpoint are joined. A run that trains a part of its model keeps that part
    only; `whole_weights` adds the others.
    """
    state = checkpoint / STATE_NAME
    weights = _joined(state) if state.is_dir() else _read(state)["state_dict"]
    names = {name.removeprefix("_forward_module."): name for name in weights}
    return {
        name.removeprefix("model."): weights[stored]
        for name, stored in names.items()
        if name.startswith("model.")
    }


def _joined(state: Path) -> dict[str, Tensor]:
    """The tensors of a ZeRO checkpoint, in float32."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    weights = dict(get_fp32_state_dict_from_zero_checkpoint(str(state), tag="checkpoint"))
    # What is frozen is joined from stage 2 on; stage 1 leaves it in the file of the whole model.
    whole = state / "checkpoint" / "mp_rank_00_model_states.pt"
    if whole.is_file():
        rest = _read(whole)["module"].items()
        weights |= {name: tensor.float() for name, tensor in rest if name not in weights}
    return weights


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    """A file of torch's, mapped: what is not used, such as the optimizer's state, is not read."""
    content: dict[str, dict[str, Tensor]] = torch.load(
        path, map_location="cpu", weights_only=True, mmap=True
    )
    return content
