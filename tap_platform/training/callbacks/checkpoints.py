"""When a checkpoint is written."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.training.checkpoint_writer import URGENT_TRIES, CheckpointWriter


class WriteCheckpoints(Callback):
    """Write `step-N/` by steps, by minutes and at the last step.

    A checkpoint that is due while the one before is still being written is left out, by all
    workers, so that a slow store slows nothing else. The last step waits.
    """

    def __init__(self, config: CheckpointConfig, writer: CheckpointWriter, max_steps: int) -> None:
        self.config = config
        self.writer = writer
        self.max_steps = max_steps
        self._start_step = 0
        self._last_step = -1
        self._last_time = time.monotonic()
        self._late_is_told = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the checkpoint that the run goes on from, and agree on whose the place is."""
        self._start_step = self._last_step = trainer.global_step
        group = trainer.strategy.broadcast(self.writer.group)
        self.writer.begin(group, self._start_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write when a step is complete and its time has come, never among its micro-batches."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        if trainer.global_step >= self.max_steps:
            self._wait_for_all(trainer)
            self._write(trainer)
        elif self._is_due(trainer):
            self._write_unless_busy(trainer)

    def write_now(self, trainer: Trainer) -> None:
        """Write the step that is complete, unless it is written already, and wait for it.

        Every worker calls this at the same step. When it returns, the checkpoint is committed, or
        an event `checkpoint_failed` tells why not.
        """
        self._wait_for_all(trainer)
        is_new = trainer.global_step not in (self._start_step, self.writer.committed_step)
        if trainer.strategy.broadcast(is_new):
            self.writer.tries = URGENT_TRIES
            self._write(trainer)
            self._wait_for_all(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave nothing half written."""
        self.writer.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let the write under way end: it holds a state from before whatever went wrong."""
        self.writer.close()

    def _is_due(self, trainer: Trainer) -> bool:
        if self.config.every_steps and trainer.global_step % self.config.every_steps == 0:
            return True
        if self.config.every_minutes is None:
            return False
        late = time.monotonic() - self._last_time > 60 * self.config.every_minutes
        # The clocks of workers differ: the first one decides for all.
        return bool(trainer.strategy.broadcast(late))

    def _write_unless_busy(self, trainer: Trainer) -> None:
        busy = trainer.strategy.reduce_boolean_decision(self.writer.busy, all=False)
        if not busy:
            self._write(trainer)
        elif trainer.is_global_zero and not self._late_is_told:
            # One event for each write that takes long, not one for each step that meets it.
            self._late_is_told = True
            self.writer.events.record("checkpoint_late", step=trainer.global_step)

    def _wait_for_all(self, trainer: Trainer) -> None:
        """Wait for every worker's write under way: the next one deletes what is not committed."""
        self.writer.wait()
        trainer.strategy.barrier()

    def _write(self, trainer: Trainer) -> None:
        self.writer.paused_since = time.monotonic()
        trainer.save_checkpoint(str(self.writer.place / f"step-{trainer.global_step}"))
        self._last_time = time.monotonic()
        self._late_is_told = False
