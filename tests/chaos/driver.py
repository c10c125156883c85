"""A driver, and the supervisor that a cluster would give it."""

from __future__ import annotations

import signal
from pathlib import Path

from tap_platform.runs.directory import RunDirectory
from tests.chaos.cluster import Cluster
from tests.chaos.processes import Process

MOST_STARTS = 6


class Supervised:
    """`tap train JOB`; a driver that fails is followed by `tap train --resume RUN`.

    So does a Kubernetes job with its `backoffLimit`. A driver waits for its host to be there.
    """

    def __init__(self, cluster: Cluster, spec: Path, storage: Path) -> None:
        self.cluster = cluster
        self.name = spec.stem
        self.storage = storage
        self.starts = 1
        self.process: Process = cluster.drive("train", spec, log=f"driver-{self.name}")

    @property
    def run(self) -> RunDirectory | None:
        """The run, as soon as its directory tells what it is."""
        runs = [run for run in RunDirectory.all(self.storage) if run.config.is_file()]
        of_job = [run for run in runs if run.name.startswith(self.name)]
        return max(of_job, key=lambda run: run.name, default=None)

    def send(self, number: signal.Signals) -> None:
        """Send the driver a signal; SIGKILL goes to its whole group."""
        if number == signal.SIGKILL:
            self.process.kill()
        else:
            self.process.send(number)

    def has_ended(self) -> bool:
        """Whether the run is over, well or badly; a driver that failed is followed."""
        status = self.process.poll()
        if status is None:
            return False
        if status == 0 or self.run is None or self.starts == MOST_STARTS:
            return True
        if self.cluster.alive(self.cluster.drivers_host) and self.cluster.alive("head"):
            self.starts += 1
            log = f"driver-{self.name}"
            self.process = self.cluster.drive("train", "--resume", self.run.path, log=log)
        return False

    @property
    def succeeded(self) -> bool:
        """Whether the last driver said so."""
        return self.process.poll() == 0
