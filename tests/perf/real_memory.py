"""What a worker's training steps really allocate, under every strategy, without Ray and data.

The recipe, its optimizer and the strategy's own settings are the product's; the batch is made up.
On a CPU every allocation of torch's allocator is added up, from before the model is built on; on a
GPU torch counts them itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from training_step import random_batch

from datamodules.stream.batch import RegionBatch
from tap_platform.config.job import JobConfig
from tap_platform.estimate.made_batch import CONCEPTS, full_captions
from tap_platform.estimate.traced_step import FullCaption
from tap_platform.recipes.optimizer import build_optimizer
from tap_platform.recipes.region_recipe import RegionRecipe
from tap_platform.recipes.tap_pretrain import TapPretrain

STEPS = 3
"""The second is the first that finds the optimizer's moments, and DDP's buckets in their order."""


def peak_of_steps(job: JobConfig, device: torch.device) -> int:
    """The most bytes that tensors take at once while a worker is built and trains.

    Where there are several workers, each of them calls this, in a process group.
    """
    with counted_bytes(device) as told:
        step = build_step(job, device)
        for _ in range(STEPS):
            step()
    return told[0]


@contextmanager
def counted_bytes(device: torch.device) -> Iterator[list[int]]:
    """A list that gets the peak of what the block allocates, in bytes."""
    told: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield told
        told.append(torch.cuda.max_memory_allocated(device) - before)
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        yield told
    told.append(_peak(watched))


def _peak(watched: Any) -> int:
    """The highest sum of allocations, less what was given back, in the order of time."""
    events = [
        (event.start_ns(), event.nbytes())
        for event in watched.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    now = most = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        now += size
        most = max(most, now)
    return most


class Loss(nn.Module):
    """A recipe's step as a module, so that a strategy may wrap it."""

    def __init__(self, recipe: RegionRecipe) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, batch: RegionBatch, number: int) -> Tensor:
        """The loss of a micro-batch, a scalar."""
        return self.recipe.training_step(batch, number)


def build_step(job: JobConfig, device: torch.device) -> Callable[[], None]:
    """One optimizer step of a job, as its strategy takes it."""
    torch.manual_seed(0)
    recipe = _recipe(job).to(device)
    batch = random_batch(job.model, job.micro_batch, job.data.regions_per_image).to(device)
    batch.step_regions = batch.step_phrased = len(batch.weights)
    strategy = job.scale.strategy
    if strategy.startswith("zero"):
        return _with_deepspeed(job, recipe, batch)
    if strategy == "fsdp":
        _shard(recipe, device)
    loss: nn.Module = Loss(recipe)
    if strategy == "ddp" and job.scale.most_workers > 1:
        loss = DistributedDataParallel(loss, gradient_as_bucket_view=True, broadcast_buffers=False)
    optimizer = build_optimizer(recipe.model, job.optimizer)

    def step() -> None:
        for number in range(job.accumulation):
            last = number == job.accumulation - 1
            quiet = nullcontext() if last or not hasattr(loss, "no_sync") else loss.no_sync()
            with quiet:
                with _autocast(job, device):
                    value = loss(batch, number)
                value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _recipe(job: JobConfig) -> RegionRecipe:
    vocabulary = torch.nn.functional.normalize(torch.randn(CONCEPTS, job.model.concept_dim))
    quiet = job.replaced(training=job.training.replaced(log_every=10**9))
    if job.recipe.type == "tap_pretrain":
        return TapPretrain(quiet, vocabulary)
    return FullCaption(quiet, vocabulary, full_captions())


def _autocast(job: JobConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=job.training.precision != "fp32")


def _with_deepspeed(job: JobConfig, recipe: RegionRecipe, batch: RegionBatch) -> Callable[[], None]:
    import deepspeed

    from tap_platform.training.strategies import zero

    zero._leave_out_compiled_collectives()
    config = dict(zero.build_zero_strategy(job).config)
    config |= {
        "train_micro_batch_size_per_gpu": job.micro_batch,
        "gradient_accumulation_steps": job.accumulation,
        "zero_allow_untested_optimizer": True,
    }
    optimizer = build_optimizer(recipe.model, job.optimizer)
    engine, *_ = deepspeed.initialize(
        model=Loss(recipe), optimizer=optimizer, config=config, dist_init_required=False
    )

    def step() -> None:
        for number in range(job.accumulation):
            value = engine(batch, number)
            engine.backward(value)
            engine.step()

    return step


def _shard(recipe: RegionRecipe, device: torch.device) -> None:
    """As `FsdpStrategy` does."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in recipe.model.image_encoder.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(recipe, mesh=mesh)
    register_fsdp_forward_method(recipe, "training_step")
