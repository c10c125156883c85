"""DeepSpeed's ZeRO: optimizer state, gradients and weights in shares (Rajbhandari et al., 2020)."""

from __future__ import annotations

from typing import Any

import ray.train.torch
import torch
from lightning.pytorch.accelerators.cuda import CUDAAccelerator
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.types import LRSchedulerConfig
from ray.train.lightning import RayDeepSpeedStrategy, RayLightningEnvironment
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tap_platform.config.job import JobConfig
from tap_platform.training.sliced_checkpoints import SlicedCheckpoints


class ZeroStrategy(SlicedCheckpoints, RayDeepSpeedStrategy):
    """ZeRO on GPUs and, for tests and small machines, on CPUs over gloo.

    An optimizer that is offloaded stays torch's AdamW, in its fused form on the CPU: the arithmetic
    of all other strategies, and no compiler on the nodes, which DeepSpeed's own would call for.
    """

    @property
    def root_device(self) -> torch.device:
        """This worker's device, with a number: DeepSpeed asks for one, on CPUs too."""
        device = ray.train.torch.get_device()
        return torch.device(device.type, device.index or 0)

    def setup_environment(self) -> None:
        """Set up as Lightning does, without its refusal of devices other than CUDA."""
        if isinstance(self.accelerator, CUDAAccelerator):
            super().setup_environment()
        else:
            ParallelStrategy.setup_environment(self)
            self.set_world_ranks()
            _leave_out_compiled_collectives()

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Lightning has averaged over the micro-batches of a step; DeepSpeed must not do it too."""
        loss: Tensor = super().backward(
            closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs
        )
        return loss

    def _init_optimizers(self) -> tuple[Optimizer, LRSchedulerConfig | LRScheduler | None]:
        assert isinstance(self.config, dict)
        optimizer, schedule = super()._init_optimizers()
        if "offload_optimizer" in self.config["zero_optimization"]:
            for group in optimizer.param_groups:
                group.update(fused=True, foreach=False)
        return optimizer, schedule


def build_zero_strategy(job: JobConfig) -> ZeroStrategy:
    """The stage and the offloading that a job asks for.

    With bf16 the weights stay in float32 and both passes run under autocast, as under all other
    strategies, so that a precision means the same numbers everywhere.
    """
    options: dict[str, Any] = {
        "cluster_environment": RayLightningEnvironment(),
        "stage": int(job.scale.strategy.removeprefix("zero_")),
        "offload_optimizer": job.scale.offload != "none",
        "offload_parameters": job.scale.offload == "parameters",
        "pin_memory": torch.cuda.is_available(),
        "logging_batch_size_per_gpu": job.micro_batch,
        "overlap_comm": False,
    }
    strategy = ZeroStrategy(**options)
    assert isinstance(strategy.config, dict)
    strategy.config["zero_force_ds_cpu_optimizer"] = False
    strategy.config["torch_autocast"] = {
        "enabled": job.training.precision == "bf16",
        "dtype": "bfloat16",
        # Weights and gradients of these would travel in bf16.
        "lower_precision_safe_modules": [],
    }
    return strategy


def _leave_out_compiled_collectives() -> None:
    """DeepSpeed would compile one on every new CPU machine, for inference: most of a minute."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
