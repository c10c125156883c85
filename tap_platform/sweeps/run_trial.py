"""A trial as what it is: an ordinary run, which Ray Train distributes."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from rich.console import Console

from tap_platform.launch.attempt import DRIVER_LOCK
from tap_platform.launch.stages import has_finished
from tap_platform.launch.train import create_run, go_on, train
from tap_platform.runs.alive import SignsOfLife
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import locked, write_json
from tap_platform.runs.prices import tell_price
from tap_platform.runs.stop_request import StopRequest
from tap_platform.sweeps.directory import LINK, SweepDirectory
from tap_platform.sweeps.exploit import first_attempt, make_exploit
from tap_platform.sweeps.live_trial import TrialOrder, Waiting
from tap_platform.sweeps.objective import Measure, ObjectiveReader

LOOK_EVERY_SECONDS = 0.1
MEASURE_WITHIN_SECONDS = 1.0
"""How long a measure is waited for, while the driver hears of nothing else, such as a stop."""
ENDING_SECONDS = 15.0
"""What a driver takes to end beside its workers' grace: tracker, mirror, Ray Train."""


class RunTrial:
    """Trains in a thread; whoever asks for measures reads the run directory meanwhile."""

    def __init__(self, order: TrialOrder) -> None:
        """Begin, or go on from the run's last checkpoint."""
        self._order = order
        self._run = RunDirectory(Path(order.run))
        self._life = SignsOfLife(self._run)
        tell_price(order.price_per_hour, order.currency)
        self._begin(order.known)

    def measure(self) -> Measure | Waiting | None:
        """As `LiveTrial` says; the failure of the run is raised as it is."""
        self._life.tell()
        until = time.monotonic() + MEASURE_WITHIN_SECONDS
        while True:
            was_over = self._done.done()
            for measure in self._reader.read_on():
                return measure
            if was_over:
                self._done.result()
                self._reader.check_has_come()
                return None
            if time.monotonic() > until:
                return Waiting.NOTHING_YET
            time.sleep(LOOK_EVERY_SECONDS)

    def exploit(self, order: TrialOrder) -> None:
        """End the workers, take the checkpoint, and train on."""
        assert order.exploit is not None
        self.stop(f"the sweep, to go on from {order.exploit.trial}")
        if not self._done.done():
            raise RuntimeError(f"{self._run.name} did not stop in time to take other weights")
        self._order = order
        self._begin(order.exploit.step)

    def stop(self, why: str) -> None:
        """Ask the workers for a checkpoint, again and again: those that start forget a request."""
        deadline = time.monotonic() + self._order.job.scale.grace_seconds + ENDING_SECONDS
        while not self._done.done() and time.monotonic() < deadline:
            if self._run.path.is_dir():
                StopRequest(self._run).ask(why)
            time.sleep(LOOK_EVERY_SECONDS)

    def _begin(self, known: int) -> None:
        self._done: Future[None] = Future()
        self._attempt_is_known = threading.Event()
        thread = threading.Thread(target=self._train, name=self._order.trial, daemon=True)
        thread.start()
        self._attempt_is_known.wait()
        self._reader = ObjectiveReader(
            self._run.metrics, self._order.metric, known, first_attempt(self._run)
        )

    def _train(self) -> None:
        try:
            log = SweepDirectory(Path(self._order.sweep)).logs / f"{self._order.trial}.log"
            with log.open("a", encoding="utf-8") as file:
                self._bring_to_its_end(Console(file=file, width=120))
        except BaseException as error:
            self._attempt_is_known.set()
            self._done.set_exception(error)
        else:
            self._done.set_result(None)

    def _bring_to_its_end(self, console: Console) -> None:
        run, job = self._run, self._order.job
        if not run.config.is_file():
            if run.path.exists():  # It was killed while it was made, and holds nothing yet.
                shutil.rmtree(run.path)
            create_run(job, run.name, console)
        sweep = SweepDirectory(Path(self._order.sweep)).name
        write_json(run.path / LINK, {"sweep": sweep, "trial": self._order.trial})
        with locked(run.path / DRIVER_LOCK):
            pass  # A driver that was killed a moment ago may not be quite gone.
        if self._order.exploit is not None:
            make_exploit(self._order.exploit, job, run)
        self._attempt_is_known.set()
        has_other_weights = first_attempt(run) > run.attempt  # and has not trained them yet
        if has_other_weights or not has_finished(run):
            if run.attempt:
                go_on(job, (), run, console)
            else:
                train(job, run, console)
