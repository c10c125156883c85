"""The number of a micro-batch, where others than the present ones were taken before."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class CountMicroBatches(Callback):
    """Count as if all steps before had consisted of as many micro-batches as those to come.

    Lightning counts micro-batches, and takes a step where their number is a multiple of the
    accumulation. A run may go on with other workers or other micro-batches than its checkpoint was
    written with.
    """

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Move the counts of Lightning's loop, which is restored after its callbacks."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        taken = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            more = taken - counts["ready"]
            counts.update({name: count + more for name, count in counts.items()})
