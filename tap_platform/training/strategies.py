"""How model, gradients and optimizer are shared out over workers: one name picks the strategy."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.accelerators.cuda import CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy, ParallelStrategy, Strategy
from ray.train.lightning import (
    RayDDPStrategy,
    RayDeepSpeedStrategy,
    RayLightningEnvironment,
)
from torch import Tensor
from torch.optim import Optimizer

from tap_platform.config.job import JobConfig
from tap_platform.training.weights import keeps_trained_only


class ZeroStrategy(RayDeepSpeedStrategy):
    """DeepSpeed ZeRO on GPUs and, for tests and small machines, on CPUs over gloo."""

    @property
    def root_device(self) -> torch.device:
        """This worker's device, with a number: DeepSpeed asks for one, on CPUs too."""
        device = super().root_device
        return torch.device(device.type, device.index or 0)

    def setup_environment(self) -> None:
        """Set up as Lightning does, without its refusal of devices other than CUDA."""
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_environment()
        else:
            ParallelStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Join the process group that Ray Train has made; CPU devices carry no index to check."""
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_distributed()
        else:
            self.set_world_ranks()
            self._init_deepspeed_distributed()

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> None:
        """Lightning has averaged over the micro-batches of a step; DeepSpeed must not do it too."""
        super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)


def build_strategy(job: JobConfig) -> Strategy:
    """The Lightning strategy that `scale.strategy` names, inside a Ray Train worker."""
    environment = RayLightningEnvironment()
    if job.scale.strategy == "ddp":
        return RayDDPStrategy(
            cluster_environment=environment,
            find_unused_parameters=False,
            gradient_as_bucket_view=True,
        )
    return ZeroStrategy(
        cluster_environment=environment,
        stage=int(job.scale.strategy.removeprefix("zero_")),
        logging_batch_size_per_gpu=job.micro_batch,
        exclude_frozen_parameters=keeps_trained_only(job),
        overlap_comm=False,
    )


def is_sharded(strategy: Strategy) -> bool:
    """Whether every worker writes a part of a checkpoint."""
    return isinstance(strategy, DeepSpeedStrategy)
