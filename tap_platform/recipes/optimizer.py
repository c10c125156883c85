"""AdamW's parameter groups and the learning rate over time (TAP paper, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tap_platform.config.training import OptimizerConfig, ScheduleConfig

NORMALIZATIONS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """AdamW over the trainable parameters, with and without weight decay."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter, decays in _trainable(model, config.decay_rule):
        (decayed if decays else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.epsilon,
    )


def _trainable(model: nn.Module, rule: str) -> Iterator[tuple[nn.Parameter, bool]]:
    """Every trainable parameter once, with whether it decays."""
    for module in model.modules():
        normalizes = isinstance(module, NORMALIZATIONS)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if rule == "v1.1":
                yield parameter, not normalizes
            else:
                yield parameter, name == "weight" and parameter.ndim > 1


def learning_rate_factor(step: int, max_steps: int, config: ScheduleConfig) -> float:
    """Share of the peak rate at an optimizer step, counted from 0."""
    if step < config.warmup_steps:
        progress = (step + 1) / config.warmup_steps
        return config.warmup_factor + (1 - config.warmup_factor) * progress
    decay_steps = max(max_steps - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / decay_steps, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_factor + (1 - config.final_factor) * cosine


def build_scheduler(optimizer: Optimizer, max_steps: int, config: ScheduleConfig) -> LambdaLR:
    """The schedule as torch's scheduler, stepped once an optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, max_steps, config))
