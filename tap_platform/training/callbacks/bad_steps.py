"""Steps whose loss or gradient is not finite change nothing, and are counted."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from datamodules.stream.batch import RegionBatch
from tap_platform.config.health import HealthConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.training.divergence import DivergedError

LEAST_SCALE = 1.0
"""A loss scale of fp16 that is no higher has no part in what overflows."""


class _MicroBatch(NamedTuple):
    """What one worker did at once."""

    keys: list[str]
    is_finite: bool
    """Whether its loss is."""


class SkipBadSteps(Callback):
    """Leave weights, moments and running statistics as they are where a step is not finite.

    Every worker decides alike, without a word between them: a loss that is not finite is made to
    have gradients that are not, and those meet in the sum over all workers, whatever the strategy.
    Where DeepSpeed shares out the state, its own check of the gradient's norm skips the step.
    The learning rate and the data position go on: the step is done, without an update.

    So the state stays finite, and every checkpoint is a good one to go back to, even one that is
    written among skipped steps. With fp16 some steps are skipped to find the loss scale, which is
    no fault: they count only where the scale is at its least, or the loss itself is not finite.

    The check reads one number of the device a step. It stands behind callbacks that look at the
    gradient, and before those that take up the new weights.
    """

    def __init__(self, health: HealthConfig, run: RunDirectory, events: EventLog) -> None:
        self.health = health
        self.run = run
        self.events = events
        self.skipped_steps = 0
        """Bad steps since the start of the run."""
        self._is_skipped = False
        self._row: list[list[str]] = []
        """Samples of the bad steps that follow each other."""
        self._micro_batches: list[tuple[list[str], Tensor]] = []
        self._statistics: list[tuple[Tensor, Tensor]] = []
        """Running statistics of the model, and what they were before the step."""
        self._last_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the checkpoint on; a row of bad steps begins anew."""
        self._last_step = trainer.global_step
        norms = [module for module in pl_module.modules() if isinstance(module, _BatchNorm)]
        buffers = chain.from_iterable(norm.buffers(recurse=False) for norm in norms)
        self._statistics = [(buffer, buffer.clone()) for buffer in buffers]
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            # It would end the process where the scale can fall no further.
            scaler = _deepspeed_optimizer(trainer).loss_scaler
            scaler.raise_error_at_min_scale = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RegionBatch, batch_idx: int
    ) -> None:
        """Keep what the forward pass of a step changes."""
        if not self._micro_batches:
            for buffer, before in self._statistics:
                before.copy_(buffer)
        self._micro_batches.append((batch.keys, torch.zeros(())))

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Let a loss that is not finite have no finite gradient; zero is added to any other."""
        own = loss.detach()
        self._micro_batches[-1] = (self._micro_batches[-1][0], own)
        loss.register_hook(lambda gradient: gradient + 0 * own)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Without gradients torch's optimizers change neither weights nor moments."""
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            return
        parameters = [p for p in pl_module.parameters() if p.grad is not None]
        self._is_skipped = not _is_finite(p.grad for p in parameters)
        if self._is_skipped:
            for parameter in parameters:
                parameter.grad = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RegionBatch,
        batch_idx: int,
    ) -> None:
        """Where a step is complete, see to it if it was skipped.

        Raises:
            DivergedError: if it is the last of `health.skipped_steps` bad ones in a row.
        """
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            self._is_skipped = bool(_deepspeed_optimizer(trainer).overflow)
        if self._is_skipped:
            self._skip(trainer)
        else:
            self._row.clear()
        self._micro_batches.clear()
        if step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log("skipped_steps", float(self.skipped_steps))
        if len(self._row) >= self.health.skipped_steps:
            raise DivergedError(step, list(chain.from_iterable(self._row)))

    def state_dict(self) -> dict[str, Any]:
        """The count, for checkpoints."""
        return {"skipped_steps": self.skipped_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped_steps = state_dict["skipped_steps"]

    def _skip(self, trainer: Trainer) -> None:
        for buffer, before in self._statistics:
            buffer.copy_(before)
        everyone = _of_all_workers(
            [_MicroBatch(keys, bool(loss.isfinite())) for keys, loss in self._micro_batches]
        )
        suspects = [key for each in everyone if not each.is_finite for key in each.keys]
        if not suspects and _scale(trainer) > LEAST_SCALE:
            return
        samples = [key for each in everyone for key in each.keys]
        self.skipped_steps += 1
        self._row.append(samples)
        if trainer.is_global_zero:
            self.events.record(
                "step_skipped",
                step=trainer.global_step,
                reason=f"the {'loss' if suspects else 'gradient'} is not finite",
                suspects=suspects,
                samples=samples,
            )


def _is_finite(gradients: Iterable[Tensor | None]) -> bool:
    """Whether the norm of the whole gradient is; a norm that float32 cannot hold is not."""
    norm = get_total_norm([g for g in gradients if g is not None])
    return bool((norm.full_tensor() if isinstance(norm, DTensor) else norm).isfinite())


def _of_all_workers(own: list[_MicroBatch]) -> list[_MicroBatch]:
    if not dist.is_initialized():
        return own
    gathered: list[list[_MicroBatch]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, own)
    return list(chain.from_iterable(gathered))


def _scale(trainer: Trainer) -> float:
    """The loss scale of fp16; the least one where there is none."""
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        return float(_deepspeed_optimizer(trainer).loss_scaler.loss_scale)
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler.get_scale() if scaler is not None else LEAST_SCALE


def _deepspeed_optimizer(trainer: Trainer) -> Any:
    engine: Any = trainer.strategy.model
    return engine.optimizer
