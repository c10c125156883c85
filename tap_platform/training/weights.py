"""A model's weights, out of a training checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

STATE_NAME = "state.ckpt"
"""Lightning's state in a checkpoint folder: a file, or a folder where every worker wrote a part."""


def load_model_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The model's state dict from a checkpoint folder, whole, on the CPU.

    The parts of a ZeRO checkpoint are joined.
    """
    state = checkpoint / STATE_NAME
    if state.is_dir():
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        weights = get_fp32_state_dict_from_zero_checkpoint(str(state), tag="checkpoint")
    else:
        weights = torch.load(state, map_location="cpu", weights_only=True)["state_dict"]
    names = {name.removeprefix("_forward_module."): name for name in weights}
    return {
        name.removeprefix("model."): weights[stored]
        for name, stored in names.items()
        if name.startswith("model.")
    }
