"""A small recipe for tests of checkpoints, and a trainer of it in this process."""

from __future__ import annotations

from itertools import count

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn import functional as F

from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.models.batch_norm import SynchronizedBatchNorm
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.training.callbacks.averaging import AverageWeights
from tap_platform.training.checkpoint_writer import CheckpointWriter
from tap_platform.training.sliced_checkpoints import SlicedCheckpoints
from tap_platform.training.slices import SlicedState
from tap_platform.training.slices.slice import AVERAGE, BUFFER, MOMENTS, WEIGHT

KINDS = (WEIGHT, BUFFER, *MOMENTS, AVERAGE)
DECAY = 0.7
STEPS = 6
HALF = 3


class Toy(LightningModule):
    """Odd sizes, running statistics, a frozen layer, and a buffer that is never saved."""

    def __init__(self, partial=False):
        super().__init__()
        torch.manual_seed(3)
        self.first = torch.nn.Conv2d(3, 5, 1)
        self.norm = SynchronizedBatchNorm(5)
        self.rest = torch.nn.Linear(5, 7).requires_grad_(False)
        self.last = torch.nn.Linear(7, 3)
        self.register_buffer("constant", torch.ones(2), persistent=False)
        self.strict_loading = not partial

    def trainable_names(self):
        return {name for name in self.state_dict() if not name.startswith("rest.")}

    def configure_model(self):
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            for layer in (self.first, self.rest, self.last, self):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])
            register_fsdp_forward_method(self, "training_step")

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [{"params": trained[::2], "weight_decay": 0.0}, {"params": trained[1::2]}]
        optimizer = torch.optim.AdamW(groups, lr=0.02)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def training_step(self, batch, batch_idx):
        features = F.relu(self.norm(self.first(batch))).mean((2, 3))
        return self.last(F.relu(self.rest(features))).square().mean()

    def train_dataloader(self):
        return Images(self.trainer)


class Images:
    """A worker's share of batches of four images, each a function of its number."""

    def __init__(self, trainer):
        self.trainer = trainer

    def __iter__(self):
        own = slice(self.trainer.global_rank, None, self.trainer.world_size)
        for number in count(self.trainer.global_step * self.trainer.accumulate_grad_batches):
            generator = torch.Generator().manual_seed(number)
            yield torch.randn(4, 3, 2, 2, generator=generator)[own]


class Save(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_start(self, trainer, pl_module):
        """Write what was loaded once more."""
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(f"step-{trainer.global_step}")

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(f"step-{trainer.global_step}")


class Alone(SlicedCheckpoints, SingleDeviceStrategy):
    pass


def fit(strategy, folder, steps, start=None, save=(STEPS,), *, place=(0, 1), partial=False, **more):
    """Train the toy from a checkpoint on, if any; checkpoints lie in the folder.

    `place` is the rank and the number of workers, `more` are options of the trainer.
    """
    rank, workers = place
    folder.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(folder)
    strategy.writer = CheckpointWriter(
        folder,
        rank,
        workers,
        EventLog(run.events, attempt=1, rank=rank),
        MetricsWriter(run.metrics, attempt=1),
        CheckpointConfig(background=False, keep_last=9),
    )
    strategy.writer.group = "all"
    trainer = Trainer(
        accelerator="cpu",
        devices=workers,
        strategy=strategy,
        max_steps=steps,
        callbacks=[*more.pop("callbacks", []), AverageWeights(DECAY), Save(save)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **more,
    )
    trainer.fit(Toy(partial), ckpt_path=str(start) if start else None)


def tensors(folder):
    """All tensors of a checkpoint, by kind and name."""
    state = SlicedState(folder)
    return {(kind, name): state.tensor(kind, name) for kind in KINDS for name in state.names(kind)}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key
