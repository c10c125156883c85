"""When a checkpoint is written, and what makes it count."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.recipes.region_recipe import RegionRecipe
from tap_platform.runs import checkpoints
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.training.weights import STATE_NAME


class WriteCheckpoints(Callback):
    """Write `checkpoints/step-N/` by steps, by minutes and at the last step.

    Every worker writes its part; the first one then adds the manifest and, last, COMMITTED. A
    folder without COMMITTED does not exist, so a kill at any moment leaves the one before.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        run: RunDirectory,
        events: EventLog,
        max_steps: int,
        trained_only: bool = False,
    ) -> None:
        self.config = config
        self.run = run
        self.events = events
        self.max_steps = max_steps
        self.trained_only = trained_only
        self._last_step = -1
        self._last_time = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the checkpoint that the run goes on from."""
        self._last_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave out what stays as it is in the initial weights."""
        if self.trained_only:
            assert isinstance(pl_module, RegionRecipe)
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {n: state[n] for n in pl_module.trainable_names()}

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
        if self._is_due(trainer):
            self._write(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        if step >= self.max_steps:
            return True
        if self.config.every_steps and step % self.config.every_steps == 0:
            return True
        if self.config.every_minutes is None:
            return False
        late = time.monotonic() - self._last_time > 60 * self.config.every_minutes
        # The clocks of workers differ: the first one decides for all.
        return bool(trainer.strategy.broadcast(late))

    def _write(self, trainer: Trainer) -> None:
        started = time.monotonic()
        step = trainer.global_step
        folder = self.run.checkpoints / f"step-{step}"
        if trainer.is_global_zero:
            checkpoints.prepare(self.run.checkpoints, step)
        trainer.strategy.barrier()
        trainer.save_checkpoint(folder / STATE_NAME)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            checkpoints.commit(folder)
            checkpoints.prune(self.run.checkpoints, self.config.keep_last)
            seconds = round(time.monotonic() - started, 3)
            self.events.record("checkpoint", step=step, seconds=seconds)
        self._last_time = time.monotonic()
