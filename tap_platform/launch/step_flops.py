"""The FLOPs of a job's step, counted beside the driver."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor

from tap_platform.config.job import JobConfig


class StepFlops:
    """Counts the FLOPs of a job's step in a process of its own, while the workers start.

    Counting hooks into every module of its process; the driver's own models would count, too.
    """

    def __init__(self, job: JobConfig, use_gpu: bool) -> None:
        """Begin to count."""
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._counted: Future[float] = self._pool.submit(step_flops, job, use_gpu)

    def value(self, patience: float) -> float | None:
        """FLOPs of one optimizer step of all workers together, once they are counted.

        Args:
            patience: seconds to wait for it.

        Raises:
            Exception: whatever kept them from being counted.
        """
        try:
            return self._counted.result(patience)
        except TimeoutError:
            return None

    def leave(self) -> None:
        """Let go of the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def step_flops(job: JobConfig, use_gpu: bool) -> float:
    """FLOPs of one optimizer step of a job's workers together, however many they are."""
    from tap_platform.estimate.traced_step import trace_step

    return float(trace_step(job, use_gpu).flops) * job.accumulation * job.scale.most_workers
