"""The size of the gradient."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from tap_platform.training.strategies import is_zero


class GradientNorm(Callback):
    """Record the norm of the whole gradient, before clipping."""

    def __init__(self, log_every: int) -> None:
        self.log_every = log_every

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Where parameters have gradients, whole or in shares, measure them."""
        if is_zero(trainer.strategy) or (trainer.global_step + 1) % self.log_every:
            return
        pl_module.log("gradient_norm", _whole_norm(pl_module))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Where DeepSpeed has the gradients, it knows their norm."""
        if not is_zero(trainer.strategy) or trainer.global_step % self.log_every:
            return
        engine: Any = trainer.strategy.model
        norm = engine.get_global_grad_norm()
        if norm is not None:
            pl_module.log("gradient_norm", float(norm))


def _whole_norm(module: LightningModule) -> Tensor:
    norm = get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
