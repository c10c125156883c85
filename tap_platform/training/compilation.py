"""Compiled parts of a model, under every strategy."""

from __future__ import annotations

import torch

from tap_platform.models.tap import Tap


def compile_blocks(model: Tap) -> None:
    """Compile the transformer blocks of the image encoder, in place: names of weights stay.

    What is between them talks to other workers and would break a graph of the whole. Block by
    block, a strategy may also gather the weights of one and free those of another.
    """
    blocks = model.image_encoder.blocks
    # Each block has a drop path rate of its own, so a graph of its own, for training and without.
    torch._dynamo.config.recompile_limit = 2 * len(blocks)
    for block in blocks:
        block.compile()
