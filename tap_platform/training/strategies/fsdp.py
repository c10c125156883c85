"""Torch's own fully sharded data parallelism, FSDP2 (Zhao et al., 2023)."""

from __future__ import annotations

from typing import Any

import ray.train.torch
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from ray.train.lightning import RayLightningEnvironment
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from tap_platform.recipes.region_recipe import RegionRecipe
from tap_platform.training.sliced_checkpoints import SlicedCheckpoints


class FsdpStrategy(SlicedCheckpoints, ModelParallelStrategy):
    """Weights, gradients and optimizer state in shares, on GPUs and on CPUs over gloo.

    Each transformer block of the image encoder is gathered when it runs; the rest of the model is
    gathered when a step begins, and stays until its backward pass ends. Weights are gathered in
    float32, and bf16 is autocast's, so that a precision means the same numbers as under `ddp`.
    """

    def __init__(self, offload: bool) -> None:
        """Take a place among Ray Train's workers.

        Args:
            offload: keep weights, gradients and optimizer state in host memory.
        """
        environment = RayLightningEnvironment()
        super().__init__(data_parallel_size=environment.world_size(), tensor_parallel_size=1)
        self.cluster_environment = environment
        self.offload = offload

    @property
    def root_device(self) -> torch.device:
        """This worker's device."""
        return ray.train.torch.get_device()

    def setup(self, trainer: Trainer) -> None:
        """Cut the model up, then make the optimizer of the shares."""
        assert self.accelerator is not None
        assert isinstance(self.lightning_module, RegionRecipe)
        self.accelerator.setup(trainer)
        self._shard(self.lightning_module)
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _shard(self, recipe: RegionRecipe) -> None:
        in_host_memory = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
        options: dict[str, Any] = {
            "mesh": self.device_mesh["data_parallel"],
            "offload_policy": in_host_memory if self.offload else OffloadPolicy(),
        }
        for block in recipe.model.image_encoder.blocks:
            fully_shard(block, **options)
        fully_shard(recipe, **options)
        for step in ("training_step", "validation_step"):
            register_fsdp_forward_method(recipe, step)
