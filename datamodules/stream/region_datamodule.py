"""Region batches for Lightning: an endless training stream and a held-out one."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule

from datamodules.order.plan import Plan
from datamodules.stream.batch import RegionBatch
from datamodules.stream.prefetch import Prefetch
from datamodules.stream.sample_stream import EvaluationStream
from datamodules.vocabulary import Vocabulary


class RegionDataModule(LightningDataModule):
    """Hands Lightning the batches of one worker, and checkpoints where they stand.

    The training stream has begun to read when it arrives here: it starts while torch is imported.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        plan: Plan,
        training: Prefetch[RegionBatch],
        held_out: EvaluationStream | None,
        start_step: int,
    ) -> None:
        """Wrap the streams.

        Args:
            vocabulary: the concepts that regions are named by.
            plan: the order of the training samples.
            training: this worker's batches from `start_step` on.
            held_out: this worker's share of the held-out images, if they are looked at.
            start_step: optimizer steps that were done before.
        """
        super().__init__()
        self.vocabulary = vocabulary
        self.plan = plan
        self.training = training
        self.held_out = held_out
        self.start_step = start_step

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
        return {"steps": step, "position": position, "order": self.plan.facts()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make sure that the stream goes on where the checkpoint stands.

        Raises:
            ValueError: if the data, or the order of its samples, is not what it was.
        """
        was, now = state_dict["order"], self.plan.facts()
        changes = "; ".join(
            f"{name} was {was.get(name, 'not there')}, is {now.get(name, 'not there')}"
            for name in {**was, **now}
            if was.get(name) != now.get(name)
        )
        if changes:
            raise ValueError(
                f"the run cannot go on with another order of its data ({changes}): restore it, or"
                " start a new run"
            )
        assert state_dict["steps"] == self.start_step, "the stream starts at another step"

    def teardown(self, stage: str) -> None:
        """Stop reading."""
        self.training.close()
