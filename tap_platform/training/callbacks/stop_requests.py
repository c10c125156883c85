"""A run that is asked to end: a checkpoint first, then a clean end."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import ray.train
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from ray.exceptions import RayActorError
from ray.train import PreemptionInfo
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.util import _in_ray_train_worker

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.stop_request import ASKED_TO_END, StopRequest
from tap_platform.training.callbacks.checkpoints import WriteCheckpoints
from tap_platform.training.termination import Termination

LOOK_EVERY_SECONDS = 0.5


class Asked(NamedTuple):
    """What the workers are asked, each a number, so that the largest of all workers is known."""

    stop: int
    """1: the driver wants the run to end."""
    terminated: int
    """1 + the rank of a worker that was sent SIGTERM."""
    preempted: int
    """1: Ray has told that a node of a worker is being drained."""


class StopOnRequest(Callback):
    """End training after the step that it is in, with a checkpoint of that step.

    The driver asks by a file (`StopRequest`); then the workers end as if all steps were done. A
    node that is drained (`ray drain-node`, an autoscaler, a spot instance that is called back, and
    `ray start --block` at SIGTERM) or a worker that is sent SIGTERM is a preemption: the workers
    end as Ray Train's preempted ones do, and it starts them again, from the checkpoint, on the
    nodes that are left or come. Ray's own advice is to train on until the node is gone; the steps
    of that time would be made twice.

    Once a step, the workers agree on the largest of their requests, by a collective of three
    numbers between CPUs. Place it after `WriteCheckpoints`, which it needs.
    """

    def __init__(
        self, run: RunDirectory, events: EventLog, max_steps: int, termination: Termination
    ) -> None:
        self.request = StopRequest(run)
        self.events = events
        self.max_steps = max_steps
        self.termination = termination
        self.preemption: dict[str, Any] | None = None
        """What the event `preempted` tells, once a preemption has ended training."""
        self._last_step = -1
        self._stop = False
        self._closed = threading.Event()
        self._group: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The first worker begins to listen for the driver."""
        if trainer.is_global_zero:
            self._stop = self.request.asked()
            threading.Thread(target=self._watch_file, name="stop-request", daemon=True).start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was asked during the start ends training before its first step."""
        self._last_step = trainer.global_step
        if trainer.world_size > 1:
            # Without a GPU in it, the step's work on the GPU goes on meanwhile.
            self._group = dist.new_group(backend="gloo")
        self._look(trainer, write=False)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look when a step is complete; the last one ends training by itself."""
        if self._last_step < trainer.global_step < self.max_steps:
            self._last_step = trainer.global_step
            self._look(trainer, write=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no more."""
        self._closed.set()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        self._closed.set()

    def _watch_file(self) -> None:
        """Look from a thread of its own: a network file system may take its time."""
        while not self._stop and not self._closed.wait(LOOK_EVERY_SECONDS):
            self._stop = self.request.asked()

    def _look(self, trainer: Trainer, write: bool) -> None:
        asked = self._agreed()
        if not any(asked):
            return
        if not asked.stop:
            self.preemption = self._preemption(asked)
            if self.preemption is None:
                return
        if write:
            _checkpoints(trainer).write_now(trainer)
        if trainer.is_global_zero:
            self._tell(trainer.global_step)
        trainer.limit_val_batches = 0  # Lightning would look at held-out images before it stops.
        trainer.should_stop = True

    def _tell(self, step: int) -> None:
        if self.preemption is None:
            self.events.record(ASKED_TO_END, step=step, why=self.request.why)
        else:
            self.events.record("preempted", step=step, **self.preemption)

    def _agreed(self) -> Asked:
        """The largest of what every worker was asked."""
        own = Asked(
            stop=int(self._stop),
            terminated=1 + (self.events.rank or 0) if self.termination.come else 0,
            preempted=int(_told_of_preemption()),
        )
        if self._group is None:
            return own
        largest = torch.tensor(own, dtype=torch.int32)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._group)
        return Asked(*largest.tolist())

    def _preemption(self, asked: Asked) -> dict[str, Any] | None:
        """Who is taken away, and when; None while the first worker has not been told yet."""
        if asked.preempted:
            return _told(ray.train.get_preemption_info())
        return {"nodes": [], "ranks": [asked.terminated - 1], "deadline": None}


def raise_if_preempted(trainer: Trainer) -> None:
    """Tell Ray Train that a worker has ended because of a preemption, and not after its last step.

    Raises:
        RayActorError: as of a worker that a preempted node took along. Ray Train counts it among
            `max_preemption_failures`; a plain return would be the end of the run.
    """
    for callback in _callbacks(trainer):
        if isinstance(callback, StopOnRequest) and callback.preemption is not None:
            raise RayActorError(error_msg=f"preempted: {callback.preemption}", preempted=True)


def _callbacks(trainer: Any) -> list[Callback]:
    """Lightning does not declare the attribute."""
    callbacks: list[Callback] = trainer.callbacks
    return callbacks


def _checkpoints(trainer: Trainer) -> WriteCheckpoints:
    return next(each for each in _callbacks(trainer) if isinstance(each, WriteCheckpoints))


def _told_of_preemption() -> bool:
    """Whether Ray has told this worker of a preemption.

    `ray.train.get_preemption_info` is a barrier of all workers, milliseconds to tens of them, so it
    is asked only when this tells that there is something to ask for.
    """
    if not _in_ray_train_worker():
        return False
    return get_train_context().preemption_context.preemption_info is not None


def _told(info: PreemptionInfo | None) -> dict[str, Any] | None:
    if info is None:
        return None
    deadline = info.deadline_ms / 1000 if info.deadline_ms else None
    return {"nodes": info.preempted_node_ids, "ranks": info.preempted_ranks, "deadline": deadline}
