"""A trial that costs nothing: its measures are a function of its job and the step.

It keeps the step in a file, as a run keeps checkpoints, and holds a CPU as workers do.
"""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import ray

from tap_platform.sweeps.objective import Measure

STEP_SECONDS = "TEST_STEP_SECONDS"


def loss(job, step):
    return abs(math.log10(job.optimizer.lr) + 2) + job.optimizer.weight_decay + 2 / step


@ray.remote(num_cpus=1, scheduling_strategy="DEFAULT")  # not below its driver, which holds none
class Worker:
    def make_step(self):
        return os.getpid()


class CheapTrial:
    def __init__(self, order):
        self.order, self.folder = order, Path(order.run)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.worker = Worker.remote()
        self.said = order.known

    def checkpoint(self):
        path = self.folder / "step"
        return int(path.read_text()) if path.exists() else 0

    def measure(self):
        if self.said >= self.order.job.training.max_steps:
            return None
        self.said += 1
        if self.said > self.checkpoint():  # else it was measured, and the sweep was not told
            self.train()
        return Measure(self.said, self.objective())

    def train(self):
        ray.get(self.worker.make_step.remote())
        time.sleep(float(os.environ.get(STEP_SECONDS, "0")))
        with (self.folder / "steps").open("a") as file:
            file.write(f"{self.said} {os.getpid()}\n")
        (self.folder / "step").write_text(str(self.said))

    def objective(self):
        return loss(self.order.job, self.said)

    def exploit(self, order):
        self.order, self.said = order, order.exploit.step
        (self.folder / "step").write_text(str(self.said))

    def stop(self, why):
        (self.folder / "stopped").write_text(why)
        ray.kill(self.worker)


class Troubled(CheapTrial):
    """The driver of one trial dies at its fourth step, another has an error, a third turns NaN."""

    def measure(self):
        mark = self.folder / "died"
        if self.order.trial == "t0001" and self.said == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.order.trial == "t0002" and self.said == 2:
            raise ValueError("no shards")
        return super().measure()

    def objective(self):
        return math.nan if self.order.trial == "t0003" and self.said > 2 else super().objective()


class Together(CheapTrial):
    """Four trials that begin when all have come."""

    def measure(self):
        while len(list(self.folder.parent.glob("small-t*"))) < 4:
            time.sleep(0.05)
        return super().measure()
