"""An exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tap_platform.training.sliced_checkpoints import MORE_SLICES, SLICED_STATE
from tap_platform.training.slices.layouts import layout_of
from tap_platform.training.slices.slice import AVERAGE, Slice, own_share


class AverageWeights(Callback):
    """Move the average by every step: `average = decay * average + (1 - decay) * weights`.

    It starts as the weights that the first step starts from. Every worker averages a share of the
    weights in float32: those that it steps (ZeRO, FSDP), or its part of what all hold (DDP). A step
    that was skipped moves nothing. Frozen weights and buffers need no average.

    It stands before what writes checkpoints.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._averages: list[Slice] = []
        self._steps_made = 0.0

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the averages, however many workers have kept them before."""
        self._averages = self._begin(trainer)
        for average in self._averages:
            checkpoint[SLICED_STATE].read_into(average)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, unless the averages were loaded."""
        self._averages = self._averages or self._begin(trainer)
        self._steps_made = layout_of(trainer.strategy).steps_made()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the averages where the weights have changed."""
        steps_made = layout_of(trainer.strategy).steps_made()
        if steps_made == self._steps_made:
            return
        self._steps_made = steps_made
        averages = [average.data for average in self._averages]
        weights = [weight.data for weight in _weights(trainer)]
        get_ema_multi_avg_fn(self.decay)(averages, weights, steps_made)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the averages."""
        checkpoint.setdefault(MORE_SLICES, []).extend(self._averages)

    def _begin(self, trainer: Trainer) -> list[Slice]:
        weights = _weights(trainer)
        return [each._replace(kind=AVERAGE, data=each.data.float().clone()) for each in weights]


def _weights(trainer: Trainer) -> list[Slice]:
    """The trained weights of this worker's share."""
    weights = layout_of(trainer.strategy).trained_weights()
    return list(own_share(weights, trainer.global_rank, trainer.world_size))
