"""Prompts that take turns where no gradients are wanted, by arithmetic instead of by content."""

from __future__ import annotations

import torch
from torch import Tensor

from tap_platform.models import RegionOutput, Tap
from tap_platform.models.image_decoder import CPU_BUDGET, GPU_BUDGET, _prompts_at_once


def take_turns(model: Tap, on_gpu: bool) -> None:
    """Let the image decoder answer as many prompts at a time as it would of real tensors.

    Without gradients it looks up which prompts are of which image, and fake tensors cannot tell;
    here all images have equally many.
    """
    decoder = model.image_decoder
    answer = decoder.forward
    budget = GPU_BUDGET if on_gpu else CPU_BUDGET

    def forward(
        images: Tensor, code: Tensor, prompts: Tensor, index: Tensor, memory: int | None = None
    ) -> RegionOutput:
        if torch.is_grad_enabled():
            return answer(images, code, prompts, index, memory)
        most = _prompts_at_once(images.flatten(2), budget)
        share = len(prompts) // len(images)
        answers = [
            answer(images[:1], code, turn, index[: len(turn)], 2**62)
            for each in prompts.split(share)
            for turn in each.split(most)
        ]
        return RegionOutput(*(torch.cat(parts) for parts in zip(*answers, strict=True)))

    decoder.forward = forward  # type: ignore[assignment,method-assign]
