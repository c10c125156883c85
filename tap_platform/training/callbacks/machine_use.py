"""What training takes of the machine of worker 0."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

GIGABYTE = 1e9


class WatchMachine(Callback):
    """Record busy cores and memory of worker 0 and its machine, and of its GPU.

    Cores are means since the last record. With the other workers of a run it is the same, but for
    what stands on their machines beside it.
    """

    def __init__(self, log_every: int) -> None:
        """Look at nothing yet.

        Args:
            log_every: steps between two records.
        """
        self._log_every = log_every
        self._process = psutil.Process()
        self._recorded = 0
        self._since = (time.perf_counter(), self._cpu_seconds())

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look, on the steps that are recorded."""
        step = trainer.global_step
        if trainer.global_rank or step == self._recorded or step % self._log_every:
            return
        self._recorded = step
        pl_module.log_dict({**self._of_process(), **of_machine(), **of_gpu()}, rank_zero_only=True)

    def _of_process(self) -> dict[str, float]:
        now = time.perf_counter(), self._cpu_seconds()
        (then, used), self._since = self._since, now
        return {
            "system/worker_cores": (now[1] - used) / max(now[0] - then, 1e-9),
            "system/worker_memory_gigabytes": self._process.memory_info().rss / GIGABYTE,
        }

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def of_machine() -> dict[str, float]:
    """Shares, 0 to 1, of all cores since the last look and of the memory that are taken."""
    return {
        "system/machine_cpu_share": psutil.cpu_percent() / 100,
        "system/machine_memory_share": psutil.virtual_memory().percent / 100,
    }


def of_gpu() -> dict[str, float]:
    """The most memory that tensors took so far, and the share of time the GPU was busy, 0 to 1."""
    if not torch.cuda.is_available():
        return {}
    told = {"system/gpu_memory_gigabytes": torch.cuda.max_memory_allocated() / GIGABYTE}
    with suppress(ImportError, RuntimeError):  # NVIDIA's library may be missing
        told["system/gpu_busy_share"] = torch.cuda.utilization() / 100
    return told
