"""A worker that stands still tells where, and is ended."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from typing import Any, Literal, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer

from tap_platform.config.health import HealthConfig
from tap_platform.runs.events import EventLog, read_events
from tap_platform.training.stacks import all_stacks, stack_of

KIND = "hang"
FIRST_STEP_FACTOR = 3
"""The first step compiles, connects and fills buffers."""
OTHERS_SECONDS = 20.0
"""How long a worker that has told of itself waits for the others to do so."""
BACKSTOP_SECONDS = 120.0
"""After so many seconds more, Python's faulthandler ends a process that runs no Python any more."""
EXIT_CODE = 75

Phase = Literal[
    "setting up", "waiting for data", "in the step", "validating", "writing a checkpoint"
]


class Watchdog(Callback):
    """End this process when no step ends within `health.hang_minutes`; Ray takes it for a failure.

    A step, a micro-batch, a held-out batch and the start of a checkpoint are progress. Where one
    worker stands still, all do: each records an event `hang` with its step, its phase and the
    Python stack of its training, and whether it waits there for the others. The one that does not
    is the culprit. A thread does all this; code that never lets go of Python's lock stops the
    thread too, and is ended by faulthandler's, which leaves its stacks in the log, and no event.
    """

    def __init__(self, health: HealthConfig, events: EventLog) -> None:
        self.seconds = 60 * health.hang_minutes if health.hang_minutes else None
        self.events = events
        self.phase: Phase = "setting up"
        self._step = 1
        self._world_size = 1
        self._training_thread = 0
        self._deadline = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch."""
        if self.seconds is None:
            return
        self._training_thread = threading.get_ident()
        self._world_size = trainer.world_size
        self._stopped.clear()
        self._progress(trainer, "setting up", FIRST_STEP_FACTOR)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The state of the checkpoint is loaded."""
        self._progress(trainer, "waiting for data", FIRST_STEP_FACTOR)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Data has arrived, which is no progress."""
        self.phase = "in the step"

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """A micro-batch is done."""
        self._progress(trainer, "waiting for data")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Held-out images are looked at."""
        self._progress(trainer, "validating")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Some of them are done."""
        self._progress(trainer, "validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to training."""
        self._progress(trainer, "waiting for data")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint begins."""
        self._progress(trainer, "writing a checkpoint")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """No more to watch."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """No more to watch."""
        self._stop()

    def _progress(self, trainer: Trainer, phase: Phase, patience: int = 1) -> None:
        if self.seconds is None:
            return
        self.phase = phase
        self._step = trainer.global_step + 1
        seconds = patience * self.seconds
        self._deadline = time.monotonic() + seconds
        faulthandler.dump_traceback_later(seconds + BACKSTOP_SECONDS, exit=True, file=2)

    def _stop(self) -> None:
        if self._thread is not None:
            faulthandler.cancel_dump_traceback_later()
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        while not self._stopped.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self._end_process()

    def _end_process(self) -> NoReturn:
        """Tell, let the others tell, and go: their collectives break when this process ends."""
        try:
            self._tell()
            self._hear_the_others()
        finally:
            os._exit(EXIT_CODE)

    def _tell(self) -> None:
        stacks, source = all_stacks()
        stack = stack_of(self._training_thread, stacks)
        waits = stack.waits_for_others
        self.events.record(
            KIND,
            step=self._step,
            phase=self.phase,
            waits_for_others=waits,
            stack=stack.in_short(),
            stack_by=source,
        )
        role = "it waits for other workers" if waits else "it does not wait for other workers"
        told = f"worker {self.events.rank} hangs at step {self._step}, {self.phase}: {role}"
        threads = "\n".join(map(str, [stack, *(s for s in stacks if s is not stack)]))
        print(f"{told}\nstacks by {source}\n{threads}", file=sys.stderr, flush=True)

    def _hear_the_others(self) -> None:
        """Wait until every worker has told of this hang, or has had the time to."""
        deadline = time.monotonic() + OTHERS_SECONDS
        while time.monotonic() < deadline:
            told = {
                event["rank"]
                for event in read_events(self.events.path, KIND)
                if (event["attempt"], event["step"]) == (self.events.attempt, self._step)
            }
            if len(told) >= self._world_size:
                return
            time.sleep(0.1)
