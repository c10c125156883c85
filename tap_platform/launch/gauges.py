"""A run's numbers for Prometheus, on the metrics port of the Ray node where its driver lives.

Ray puts `ray_` before their names: `ray_tap_loss{run="…", project="…"}`. The driver reads them from
the run directory, so that training does nothing for them and a new worker tells no old ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tap_platform.config.job import JobConfig
from tap_platform.launch.step_flops import StepFlops
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_records
from tap_platform.runs.metrics import MetricsReader
from tap_platform.runs.passes import BackgroundPasses
from tap_platform.runs.prices import price_per_hour
from tap_platform.runs.usage import Usage

INTERVAL_SECONDS = 5.0
LAST_LOOK_SECONDS = 5.0
PEAK = "TAP_GPU_TFLOPS"
"""Variable with the dense bf16 peak of one of the run's GPUs; unset, no MFU is told."""
MEASURED = {
    "train/loss": "tap_loss",
    "speed/seconds_per_step": "tap_step_seconds",
    "speed/images_per_second": "tap_images_per_second",
    "speed/data_wait_share": "tap_data_wait_share",
}
"""What is recorded of training steps, and the gauge that shows it."""
GAUGES = {
    "tap_loss": "Loss of the step recorded last.",
    "tap_step_seconds": "Seconds of one optimizer step, over the steps since the last record.",
    "tap_images_per_second": "Images trained on in a second, by all workers.",
    "tap_data_wait_share": "Share of a step that waits for data, from 0 to 1.",
    "tap_mfu": "Share of the GPUs' peak that training reaches, from 0 to 1.",
    "tap_step": "Optimizer steps done.",
    "tap_failures_total": "Workers, drivers and attempts lost or failed, over the run's life.",
    "tap_checkpoint_failures_total": "Checkpoints that were not written, over the run's life.",
    "tap_gpu_hours": "Hours of all workers' GPUs together, over the run's life.",
    "tap_cost": "Price of the machines over the run's life, in the profile's currency.",
}
"""Totals are gauges too: they are the run's own, and a new driver does not begin at 0 again."""


class RunGauges(BackgroundPasses):
    """Tells Ray what is new in a run directory."""

    def __init__(self, run: RunDirectory, job: JobConfig, use_gpu: bool) -> None:
        """Tell nothing yet.

        Args:
            run: The run to follow.
            job: What it trains.
            use_gpu: Whether each of its workers has a GPU.
        """
        from ray.util.metrics import Gauge

        super().__init__(run, "gauges", INTERVAL_SECONDS)
        self._job = job
        self._use_gpu = use_gpu
        self._price = price_per_hour() or 0.0
        self._peak = 1e12 * float(os.environ.get(PEAK) or 0)
        self._flops = StepFlops(job, use_gpu) if self._peak else None
        self._shown: dict[str, float] = {}
        self._metrics = MetricsReader(run.metrics)
        self._usage = Usage()
        self._events_read = 0
        tags = {"run": run.name, "project": run.project}
        self._gauges = {name: Gauge(name, text, tuple(tags)) for name, text in GAUGES.items()}
        for gauge in self._gauges.values():
            gauge.set_default_tags(tags)

    def _pass(self) -> None:
        self._read_events()
        self._shown |= self._measured() | self._totals(time.time())
        # All of them each time: Ray forgets a gauge that is not set between two of its looks.
        self._show(self._shown)
        self._show(self._mfu())

    def _show(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._gauges[name].set(value)

    def _release(self) -> None:
        if self._flops and self._is_last:
            self._flops.leave()

    def _measured(self) -> dict[str, float]:
        """The last value of each measure since the last look."""
        found: dict[str, float] = {}
        for record in self._metrics.read_on():
            if record.kind == "train":
                found["tap_step"] = record.step
                values = record.named_values
                found |= {MEASURED[name]: values[name] for name in MEASURED if name in values}
        return found

    def _mfu(self) -> dict[str, float]:
        """Nothing before a step is measured and its FLOPs are counted."""
        seconds = self._shown.get("tap_step_seconds")
        if self._flops is None or seconds is None:
            return {}
        try:
            flops = self._flops.value(LAST_LOOK_SECONDS if self._is_last else 0)
        except Exception as error:  # whatever it is: the other gauges go on
            self._note("without_mfu", error=str(error))
            self._flops.leave()
            self._flops = None
            return {}
        workers = self._usage.workers or self._job.scale.most_workers
        return {} if flops is None else {"tap_mfu": flops / (workers * self._peak * seconds)}

    def _totals(self, now: float) -> dict[str, float]:
        usage = self._usage
        cost = {"tap_cost": usage.driver_hours(now) * self._price} if self._price else {}
        return cost | {
            "tap_failures_total": usage.failures,
            "tap_checkpoint_failures_total": usage.checkpoint_failures,
            "tap_gpu_hours": usage.worker_hours(now) if self._use_gpu else 0.0,
        }

    def _read_events(self) -> None:
        start = -1
        while start != self._events_read:
            start = self._events_read
            events, self._events_read = read_records(self.run.events, start)
            self._usage.take(events)


@contextmanager
def exported(run: RunDirectory, job: JobConfig, use_gpu: bool) -> Iterator[None]:
    """Let Prometheus see the run while the block trains; Ray is connected."""
    gauges = RunGauges(run, job, use_gpu)
    gauges.start()
    try:
        yield
    finally:
        gauges.stop(LAST_LOOK_SECONDS)
