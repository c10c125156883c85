"""Region batches for Lightning: an endless training stream and a held-out one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from datamodules.order.plan import GlobalPlan
from datamodules.stream.batch import RegionBatch
from datamodules.stream.prefetch import Prefetch
from datamodules.stream.sample_stream import EvaluationStream


class RegionDataModule(LightningDataModule):
    """Hands Lightning the batches of one worker, and checkpoints where they stand.

    The training stream has begun to read when it arrives here: it starts while torch is imported.
    """

    def __init__(
        self,
        folder: Path,
        plan: GlobalPlan,
        training: Prefetch[RegionBatch],
        held_out: EvaluationStream | None,
        start_step: int,
    ) -> None:
        """Wrap the streams.

        Args:
            folder: the data set's folder.
            plan: the order of the training samples.
            training: this worker's batches from `start_step` on.
            held_out: this worker's share of the held-out images, if they are looked at.
            start_step: optimizer steps that were done before.
        """
        super().__init__()
        self.folder = folder
        self.plan = plan
        self.training = training
        self.held_out = held_out
        self.start_step = start_step

    @property
    def vocabulary(self) -> Path:
        """The file of concept names and embeddings."""
        return self.folder / "vocabulary.safetensors"

    def train_dataloader(self) -> Prefetch[RegionBatch]:
        """Batches from the run's position on."""
        return self.training

    def val_dataloader(self) -> EvaluationStream | list[RegionBatch]:
        """Held-out batches."""
        return self.held_out if self.held_out is not None else []

    def state_dict(self) -> dict[str, Any]:
        """The data position, and what the order depends on."""
        assert self.trainer is not None
        step = self.trainer.global_step
        position = self.plan.position(step).as_dict()
        return {"steps": step, "position": position, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make sure that the stream goes on where the checkpoint stands.

        Raises:
            ValueError: if the data, or the order of its samples, is not what it was.
        """
        differing = {
            name: (value, self._order()[name])
            for name, value in state_dict["order"].items()
            if value != self._order()[name]
        }
        if differing:
            changes = "; ".join(f"{k} was {old}, is {new}" for k, (old, new) in differing.items())
            raise ValueError(
                f"the run cannot go on with another order of its data ({changes}): restore it, or"
                " start a new run"
            )
        assert state_dict["steps"] == self.start_step, "the stream starts at another step"

    def _order(self) -> dict[str, int]:
        plan = self.plan
        return {
            "data.seed": plan.seed,
            "data.partitions": plan.partitions,
            "data.shuffle_window": plan.shuffle_window,
            "training.global_batch": plan.global_batch,
            "samples in a partition": plan.samples_per_partition,
        }

    def teardown(self, stage: str) -> None:
        """Stop reading."""
        self.training.close()
