"""The size of the gradient."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from tap_platform.training.strategies import is_sharded


class GradientNorm(Callback):
    """Record the norm of the whole gradient, before clipping."""

    def __init__(self, log_every: int) -> None:
        self.log_every = log_every

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Where every worker holds the whole gradient, measure it."""
        if is_sharded(trainer.strategy) or (trainer.global_step + 1) % self.log_every:
            return
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        pl_module.log("gradient_norm", get_total_norm(gradients))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Where gradients are sharded, DeepSpeed knows the norm of the whole."""
        if not is_sharded(trainer.strategy) or trainer.global_step % self.log_every:
            return
        engine: Any = trainer.strategy.model
        norm = engine.get_global_grad_norm()
        if norm is not None:
            pl_module.log("gradient_norm", float(norm))
