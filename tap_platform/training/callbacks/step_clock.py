"""Where the time of a step goes."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class StepClock(Callback):
    """Record images per second and the share of time that the step waits for data.

    Rates are means over the steps since the last record, or since the last look at held-out images,
    which is not counted.
    """

    def __init__(self, images_per_step: int, log_every: int) -> None:
        self.images_per_step = images_per_step
        self.log_every = log_every
        self._ready_since: float | None = None
        self._window_start: float | None = None
        self._window_step = 0
        self._waited = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Data has arrived: the wait ends. The first batch opens the window, its wait apart."""
        now = time.perf_counter()
        if self._window_start is None:
            self._window_start, self._window_step = now, trainer.global_step
        elif self._ready_since is not None:
            self._waited += now - self._ready_since

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Close the window on the steps that are recorded."""
        now = time.perf_counter()
        self._ready_since = now
        steps = trainer.global_step - self._window_step
        if self._window_start is None or not steps or trainer.global_step % self.log_every:
            return
        elapsed = now - self._window_start
        pl_module.log_dict(
            {
                "speed/images_per_second": steps * self.images_per_step / elapsed,
                "speed/seconds_per_step": elapsed / steps,
                "speed/data_wait_share": self._waited / elapsed,
            }
        )
        self._window_start, self._window_step, self._waited = now, trainer.global_step, 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew with the next batch."""
        self._window_start, self._waited = None, 0.0
