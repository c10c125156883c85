"""What makes a Lightning strategy save and load in the one format of all strategies.

A checkpoint is a folder: `part-RRRRR.safetensors`, the slices of the state that one worker saved,
and `training.json`, everything that is no tensor. There is no pickle in it, so that what is read is
data and never code. DeepSpeed's own files, and the universal ones that it converts them to, are not
written: any strategy and any number of workers reads these.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer

from tap_platform.runs.files import read_json
from tap_platform.training.slices.exact_json import from_json, to_json
from tap_platform.training.slices.layouts import layout_of
from tap_platform.training.slices.slice import Slice, own_share, to_tensors
from tap_platform.training.slices.state import SlicedState

if TYPE_CHECKING:
    from tap_platform.training.checkpoint_writer import CheckpointWriter

TRAINING_NAME = "training.json"
"""Loops, schedule, scaler, callbacks, data position and the optimizer's counts."""
MORE_SLICES = "more_slices"
"""Key by which callbacks add slices of their own, each worker its share, to Lightning's dict."""
SLICED_STATE = "sliced_state"
"""Key by which callbacks find the tensors of the checkpoint that the run goes on from."""
TENSORS = ("state_dict", "optimizer_states")
"""Keys of Lightning's dict in whose place the slices are."""


class SlicedCheckpoints(Strategy):
    """Mix it in before a strategy of Lightning's.

    `trainer.save_checkpoint(path)` hands the state to `writer`, which knows the place; the path
    only names it. `trainer.fit(ckpt_path=folder)` goes on from a local folder.
    """

    writer: CheckpointWriter

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Load into what the strategy has set up, where the slices live."""
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Leave the optimizer to `load_checkpoint`."""
        return False

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: weights are saved as slices."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Nothing: moments are saved as slices."""
        return {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Hand this worker's share to the writer.

        Args:
            checkpoint: Lightning's dict of all that is no tensor, and slices that callbacks add.
            filepath: the folder `…/step-N`.
            storage_options: unused.
        """
        trainer = self._trainer
        layout = layout_of(self)
        more: list[Slice] = checkpoint.pop(MORE_SLICES, [])
        own = own_share(layout.held_slices(), trainer.global_rank, trainer.world_size)
        tensors, metadata = to_tensors(chain(own, more))
        training = {
            "lightning": {name: v for name, v in checkpoint.items() if name not in TENSORS},
            "steps": layout.steps(),
            "learning_rates": [group["lr"] for group in layout.optimizer.param_groups],
            "counters": layout.counters(),
        }
        self.writer.save(
            trainer.global_step,
            tensors,
            metadata,
            {TRAINING_NAME: to_json(training, TRAINING_NAME)},
            last=trainer.global_step >= trainer.max_steps,
        )

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Take weights, moments, buffers and counters; give Lightning the rest.

        Args:
            checkpoint_path: a local folder `…/step-N`.
            weights_only: unused: nothing here is unpickled.

        Raises:
            CorruptCheckpointError: if a part of the state is missing.
            ValueError: if it does not fit the job's model.
        """
        folder = Path(checkpoint_path)
        training = from_json(read_json(folder / TRAINING_NAME))
        checkpoint: dict[str, Any] = training["lightning"]
        state = SlicedState(folder)
        layout = layout_of(self)
        layout.load(state, training["steps"])
        layout.set_counters(training["counters"], checkpoint["global_step"])
        rates = zip(layout.optimizer.param_groups, training["learning_rates"], strict=True)
        for group, rate in rates:
            group["lr"] = rate
        return {**checkpoint, SLICED_STATE: state}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Nothing: `load_checkpoint` has loaded it."""

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Nothing: `load_checkpoint` has loaded it."""

    @property
    def _trainer(self) -> Trainer:
        assert self.lightning_module is not None
        return self.lightning_module.trainer
