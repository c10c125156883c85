"""A loss that jumps is an event."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tap_platform.config.health import HealthConfig
from tap_platform.runs.events import EventLog

FEWEST = 5
"""Recorded losses that make a median."""


class WatchLoss(Callback):
    """Record `loss_spike` when the loss exceeds `health.spike_factor` times its recent median.

    The losses are those that are recorded, over all workers. A spike is one event, however long it
    lasts: the next one counts when the loss has been below that bound again. Losses that are not
    finite are told of by `SkipBadSteps`.
    """

    def __init__(self, health: HealthConfig, events: EventLog) -> None:
        self.factor = health.spike_factor
        self.events = events
        self._losses: deque[float] = deque(maxlen=health.spike_window)
        self._is_high = False
        self._last_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The step that a run goes on from was looked at before."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the loss of a step that is recorded."""
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.factor is None or step == self._last_step or step % every:
            return
        self._last_step = step
        self._look(step, float(trainer.callback_metrics["loss"]), trainer.is_global_zero)

    def state_dict(self) -> dict[str, Any]:
        """The window, for checkpoints."""
        return {"losses": list(self._losses), "is_high": self._is_high}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self._losses.extend(state_dict["losses"])
        self._is_high = state_dict["is_high"]

    def _look(self, step: int, loss: float, tells: bool) -> None:
        if not math.isfinite(loss):
            return
        if len(self._losses) >= FEWEST:
            usual = median(self._losses)
            assert self.factor is not None
            was_high, self._is_high = self._is_high, loss > self.factor * usual
            if self._is_high and not was_high and tells:
                self.events.record("loss_spike", step=step, loss=loss, median=usual)
        self._losses.append(loss)
