"""A bare PyTorch loop that takes its steps between those of the product's loop, on its batches."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from training_step import Stopwatch

from datamodules.stream.batch import RegionBatch
from tap_platform.config.job import JobConfig
from tap_platform.models import Tap
from tap_platform.models.batch_norm import SynchronizedBatchNorm
from tap_platform.objectives import pretraining
from tap_platform.recipes.optimizer import build_optimizer, build_scheduler
from tap_platform.recipes.region_recipe import RegionRecipe

WARM_STEPS = 4


class PretrainingLoss(nn.Module):
    """The loss of TAP's pre-training, normalized over the regions of `workers` workers."""

    def __init__(self, model: Tap, vocabulary: Tensor, job: JobConfig, workers: int) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = vocabulary
        self.job = job
        self.workers = workers

    def forward(self, batch: RegionBatch) -> Tensor:
        """The loss of a batch, a scalar."""
        images = self.model.encode(self.model.normalize(batch.pixels))
        objective = self.job.recipe.objective
        stages = pretraining.two_stages(
            lambda p: self.model.decode(images, p.points, p.labels, batch.image_index),
            batch,
            self.vocabulary,
            objective,
            self.job.model.image_size,
        )
        regions = batch.weights.sum()
        if self.workers > 1:
            dist.all_reduce(regions)
        losses = [stage.losses for stage in stages]
        return pretraining.total(losses, batch.weights, regions / self.workers, objective)


class BareLoop:
    """Model, optimizer and schedule as a plain script has them; a copy of the product's model.

    Workers go together, by torch's data parallelism, or each alone, without a word to the others.
    """

    def __init__(self, recipe: RegionRecipe, together: bool) -> None:
        self.job = recipe.job
        workers = dist.get_world_size() if together and dist.is_initialized() else 1
        model = deepcopy(recipe.model).train()
        model.text_decoder.eval()
        self.optimizer = build_optimizer(model, self.job.optimizer)
        steps = self.job.training.max_steps
        self.scheduler = build_scheduler(self.optimizer, steps, self.job.schedule)
        self.loss: nn.Module = PretrainingLoss(model, recipe.vocabulary, self.job, workers)
        if workers > 1:
            self.loss = DistributedDataParallel(self.loss, gradient_as_bucket_view=True)
        elif dist.is_initialized():
            _normalize_alone(model)

    def step(self, batch: RegionBatch, watch: Stopwatch) -> None:
        """Forward, backward, optimizer."""
        with watch.phase("forward"):
            loss = self.loss(batch)
        with watch.phase("backward"):
            loss.backward()
        with watch.phase("optimizer"):
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()


def _normalize_alone(model: Tap) -> None:
    """Let every worker take the statistics of its own batch."""
    own, _ = dist.new_subgroups(1)
    for module in model.modules():
        if isinstance(module, SynchronizedBatchNorm):
            module.process_group = own


class BareBeside(Callback):
    """After every step of the product, one of the bare loop on the same batch.

    The product's step is what lies between two bare ones: waiting for data, Lightning's loops,
    every callback, the records. The first half of the steps is timed as a whole, the second in
    phases.
    """

    def __init__(self, path: str, together: bool = True) -> None:
        self.path = Path(path)
        self.together = together
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.other_cpu: list[float] = []
        self.watches = {name: Stopwatch(lambda: None) for name in ("ours", "bare")}
        self._since: float | None = None

    def setup(self, trainer: Trainer, pl_module: RegionRecipe, stage: str) -> None:
        """Copy the model before a strategy cuts it up."""
        self.loop = BareLoop(pl_module, self.together)
        self.plain_steps = (trainer.max_steps - WARM_STEPS) // 2

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RegionRecipe, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The end of a step of the product: the bare loop's turn."""
        now, cpu = time.perf_counter(), _other_threads()
        left = trainer.max_steps - batch_idx - 1
        if self._since is not None and batch_idx >= WARM_STEPS and left:
            self.ours.append(now - self._since)
            self.other_cpu.append(cpu - self._cpu)
        if left == 1 and trainer.is_global_zero:  # the last step writes the checkpoint too
            self._write()
        self.loop.step(batch, self.watches["bare"])
        if batch_idx >= WARM_STEPS:
            self.bare.append(time.perf_counter() - now)
        if len(self.bare) == self.plain_steps:
            self.watches["bare"].seconds.clear()
            split(trainer, pl_module, self.watches["ours"])
        self._since, self._cpu = time.perf_counter(), _other_threads()

    def _write(self) -> None:
        whole = self.ours[self.plain_steps :]
        ours = _each(self.watches["ours"].seconds, len(whole))
        ours["Lightning's loops"] = statistics.mean(whole) - sum(ours.values())
        bare = _each(self.watches["bare"].seconds, len(self.bare) - self.plain_steps)
        measured = {
            "ours": self.ours[: self.plain_steps],
            "bare": self.bare[: self.plain_steps],
            "phases": {"ours": ours, "bare": bare},
            "other_threads": statistics.mean(self.other_cpu),
        }
        self.path.write_text(json.dumps(measured))


def split(trainer: Trainer, recipe: RegionRecipe, watch: Stopwatch) -> None:
    """Charge the time of the product's steps to their parts, from now on."""
    parts: list[tuple[Any, str, str]] = [
        (trainer.strategy, "training_step", "forward"),
        (trainer.strategy, "backward", "backward"),
        (trainer.strategy, "optimizer_step", "optimizer"),
        (trainer.strategy, "batch_to_device", "batch to the device"),
        (trainer.fit_loop._data_fetcher, "__next__", "waiting for data"),
        (trainer._logger_connector, "log_metrics", "records"),
        (trainer._logger_connector, "update_train_step_metrics", "records"),
        (recipe, "record", "sums of loss terms"),
        (recipe, "shares", "regions of all workers"),
    ]
    for callback in trainer.callbacks[:-1]:
        name = f"callback {type(callback).__name__}"
        hooks = [h for h in vars(type(callback)) if h.startswith("on_")]
        parts += [(callback, hook, name) for hook in hooks]
    for owner, name, phase in parts:
        if name == "__next__":
            _around_next(owner, watch, phase)
        else:
            setattr(owner, name, watch.around(phase, getattr(owner, name)))


def _around_next(fetcher: Any, watch: Stopwatch, phase: str) -> None:
    """Python looks for `__next__` on the class."""
    kind = type(fetcher)
    timed: Callable[..., Any] = watch.around(phase, kind.__next__)
    fetcher.__class__ = type(kind.__name__, (kind,), {"__next__": timed})


def _each(seconds: dict[str, float], steps: int) -> dict[str, float]:
    return {name: value / steps for name, value in seconds.items()}


def _other_threads() -> float:
    """CPU seconds of this process outside of this thread: reading and decoding ahead."""
    return time.process_time() - time.thread_time()
