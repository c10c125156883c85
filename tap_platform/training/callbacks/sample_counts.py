"""How many samples a run has seen, and how many of them were bad."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.stream.batch import RegionBatch
from datamodules.stream.quarantine import NOTHING_COUNTED, SampleCounts

STATE = "sample_counts"


class CountSamples(Callback):
    """Record the fields of `SampleCounts`, over all workers.

    They count what was trained on, not what was read ahead, from the first step of the run: the
    totals lie in every checkpoint, so that a run that was killed counts nothing twice.
    """

    def __init__(self, log_every: int) -> None:
        self.log_every = log_every
        self._totals = NOTHING_COUNTED
        """Of all workers, up to the last time that they were added up."""
        self._own = NOTHING_COUNTED
        """Of this worker, since then."""
        self._last_step = -1

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RegionBatch,
        batch_idx: int,
    ) -> None:
        """Count a micro-batch, and record the totals where a step that is recorded is complete."""
        self._own = _sum(self._own, batch.counts)
        step = trainer.global_step
        if step == self._last_step or step % self.log_every:
            return
        self._last_step = step
        totals = self._add_up(trainer, pl_module)
        pl_module.log_dict({name: float(value) for name, value in totals._asdict().items()})

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the totals; every worker saves at the same step."""
        checkpoint[STATE] = self._add_up(trainer, pl_module)._asdict()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting."""
        self._totals = SampleCounts(**checkpoint.get(STATE, {}))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The step that a run goes on from was recorded before."""
        self._last_step = trainer.global_step

    def _add_up(self, trainer: Trainer, pl_module: LightningModule) -> SampleCounts:
        own = torch.tensor(self._own, dtype=torch.int64, device=pl_module.device)
        everyone = trainer.strategy.reduce(own, reduce_op="sum")
        self._totals = _sum(self._totals, SampleCounts(*map(int, everyone)))
        self._own = NOTHING_COUNTED
        return self._totals


def _sum(one: SampleCounts, other: SampleCounts) -> SampleCounts:
    return SampleCounts(*(a + b for a, b in zip(one, other, strict=True)))
