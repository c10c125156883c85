"""Checkpoints that are written while training goes on, and survive what goes wrong.

The thread of each worker writes the worker's part, and then a receipt. That of the first worker
waits for all receipts and commits. No thread takes part in a collective: a worker that dies leaves
a folder without `COMMITTED`, which does not exist.

Of two starts of one run only the later one writes: its first worker leaves its name in the place,
and that of the earlier, which may only have been cut off, finds it there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any, TypeVar
from uuid import uuid4

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from torch import Tensor

from datamodules.storage import Location, make_folder, read_bytes, reason, write_bytes
from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.runs import checkpoints
from tap_platform.runs.checkpoint_manifest import FileEntry
from tap_platform.runs.checkpoint_receipts import (
    PartMissingError,
    Receipt,
    put_receipt,
    wait_for_receipts,
)
from tap_platform.runs.checkpoint_scores import Scores
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.training.checkpoint_parts import part_name, write_files
from tap_platform.training.staging import HostBuffers

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

PATIENCE_SECONDS = 600.0
"""How long the first worker waits for each try of others once its own part is written."""
URGENT_TRIES = 3
"""How often a file of a checkpoint is written for which there will be no other time."""
LAST_TRIES = 5
"""How often a file of the last checkpoint is written before the run fails."""
FIRST_PAUSE_SECONDS = 5.0
"""Between the first two of them; each one after is twice as long."""


WRITER = ".writer"
"""File beside the checkpoints that names the workers whose they are."""


class CheckpointFailedError(Exception):
    """The last checkpoint cannot be written."""


class OvertakenError(Exception):
    """Workers of a later start of the run write its checkpoints."""


@dataclass(frozen=True)
class _Write:
    """One worker's share of one checkpoint, in host memory."""

    step: int
    name: str
    """Of this write, the same for all workers."""
    folder: Location
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    documents: Mapping[str, bytes]
    began: float
    """When training stopped for it, by `time.monotonic`."""
    tries: int
    stall: float | None = None
    """Seconds that training stopped; None while it still does."""


class CheckpointWriter:
    """Writes the parts of one worker; the first worker's also commits, deletes and tells."""

    def __init__(
        self,
        place: Location,
        rank: int,
        world_size: int,
        events: EventLog,
        metrics: MetricsWriter,
        config: CheckpointConfig,
    ) -> None:
        """Write nothing yet.

        Args:
            place: The folder or URL of the run's `step-N/`.
            rank: Of this worker.
            world_size: How many workers write.
            events: This worker's event log.
            metrics: Where the first worker counts failures.
            config: What is kept, and whether training waits.
        """
        self.place = place
        self.rank = rank
        self.world_size = world_size
        self.events = events
        self.metrics = metrics
        self.config = config
        self.group = uuid4().hex
        """Name of these workers. All must have the same before they save: the first one's."""
        self.start_step: int | None = None
        """The step that the run goes on from: what is later and not of these workers is abandoned.
        """
        self.tries = 1
        """How often a file of the next checkpoint is written; more if it is the last one."""
        self.paused_since: float | None = None
        """When training stopped for the next save, by `time.monotonic`; None: when it is called."""
        self.committed_step: int | None = None
        """The last step that this writer has committed, in the first worker."""
        self._scores = Scores(metrics.path, config.best_metric, config.best_is)
        self._buffers = HostBuffers()
        self._thread: Thread | None = None
        self._saves = 0
        self._has_place = False
        self._own_steps: set[int] = set()
        self._failures = len(read_events(events.path, "checkpoint_failed")) if rank == 0 else 0

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, group: str, step: int) -> None:
        """Take the place from earlier starts of the run; every worker calls this before a save.

        A store that is down is asked again at the first save.

        Args:
            group: Name of these workers, the same in all.
            step: The one that they go on from.
        """
        self.group, self.start_step = group, step
        self._has_place = False
        self._own_steps.clear()
        if self.rank == 0:
            with _only_warned("the checkpoints' place is not taken yet"):
                self._take_place()

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        documents: Mapping[str, Any],
        last: bool,
    ) -> None:
        """Write a checkpoint; every worker calls this for the same step.

        A write that is still under way is waited for. In the background, this returns as soon as
        the tensors are copied, and a failure is an event. The last checkpoint is waited for.

        Args:
            step: Optimizer steps done.
            tensors: This worker's, on any device; they may change as soon as this returns.
            metadata: Of the tensors, for the head of their file.
            documents: The first worker's other files, by name: what JSON can say.
            last: Whether the run ends with it.

        Raises:
            CheckpointFailedError: The last one cannot be written; the message says where and why.
        """
        began, self.paused_since = self.paused_since or time.monotonic(), None
        self.wait()
        self._saves += 1
        tries, self.tries = LAST_TRIES if last else self.tries, 1
        in_background = self.config.background and not last
        texts = {name: json.dumps(value).encode() for name, value in documents.items()}
        write = _Write(
            step=step,
            name=f"{self.group}-{self._saves}",
            folder=self.place / f"step-{step}",
            tensors=self._buffers.copy(tensors),
            metadata=metadata,
            documents=texts if self.rank == 0 else {},
            began=began,
            tries=tries,
            stall=time.monotonic() - began if in_background else None,
        )
        if in_background:
            self._thread = Thread(target=self._carry_out, args=(write,), name="checkpoint")
            self._thread.daemon = True
            self._thread.start()
        elif (failure := self._carry_out(write)) and last:
            raise CheckpointFailedError(_explain(write, failure))

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Wait, and give the memory back."""
        self.wait()
        self._buffers.clear()

    def _carry_out(self, write: _Write) -> str | None:
        """Write, and return why that has failed, if it has: whatever it is, training goes on."""
        try:
            if self.rank == 0:
                self._write_and_commit(write)
            else:
                files = self._write_files(write)
                receipt = Receipt(write=write.name, files=files)
                _tried(write, lambda: put_receipt(write.folder, self.rank, receipt))
        except Exception as error:
            why = _why(error)
            self._tell_failure(write, why)
            return why
        return None

    def _write_and_commit(self, write: _Write) -> None:
        """What the first worker does."""
        _tried(write, self._take_place)
        _tried(write, lambda: checkpoints.sweep(self.place, writing=write.step))
        files = self._write_files(write)
        others = range(1, self.world_size)
        patience = PATIENCE_SECONDS * write.tries
        files |= wait_for_receipts(write.folder, write.name, others, patience)
        _tried(write, self._take_place)
        _tried(write, lambda: checkpoints.commit(write.folder, files, self.world_size))
        self.committed_step = write.step
        self._own_steps.add(write.step)
        seconds = time.monotonic() - write.began
        with _only_warned(f"the checkpoint of step {write.step} exists, but is not told"):
            self.events.record(
                "checkpoint",
                step=write.step,
                stall_seconds=round(seconds if write.stall is None else write.stall, 3),
                seconds=round(seconds, 3),
                bytes=sum(entry.size for entry in files.values()),
            )
        self._prune(write.step)

    def _take_place(self) -> None:
        """Make sure that the place is of these workers; the first time, make it theirs."""
        own, holder = self.group.encode(), None
        with suppress(FileNotFoundError):
            holder = read_bytes(self.place / WRITER) if self._has_place else None
        if holder is None:
            make_folder(self.place)
            write_bytes(self.place / WRITER, own)
            self._has_place = True
        elif holder != own:
            raise OvertakenError("a later start of the run writes its checkpoints now")

    def _is_abandoned(self, step: int) -> bool:
        own = self._own_steps
        return self.start_step is not None and step > self.start_step and step not in own

    def _write_files(self, write: _Write) -> dict[str, FileEntry]:
        return _tried(
            write,
            lambda: write_files(
                write.folder,
                part_name(self.rank, write.name),
                write.tensors,
                write.metadata,
                write.documents,
            ),
        )

    def _prune(self, newest: int) -> None:
        """Delete what need not stay; what cannot be deleted does no harm but for its size."""
        keep = self.config
        try:
            scores = self._scores.newest() if keep.keep_best else {}
            checkpoints.prune(
                self.place,
                keep.keep_last,
                keep.keep_every,
                keep.keep_best,
                scores,
                newest=newest,
                abandoned=self._is_abandoned,
            )
        except Exception as error:  # the checkpoint exists, whatever became of others
            _LOG.warning("old checkpoints in %s stay: %s", self.place, _why(error))

    def _tell_failure(self, write: _Write, why: str) -> None:
        """One event for a failure: the first worker's, or that of a worker which cannot tell it."""
        _LOG.warning("checkpoint of step %s is not written to %s: %s", write.step, self.place, why)
        if self.rank != 0:
            with suppress(OSError):
                failed = Receipt(write=write.name, failure=why)
                put_receipt(write.folder, self.rank, failed)
                return
        with _only_warned("this is not told"):
            self.events.record("checkpoint_failed", step=write.step, place=self.place, reason=why)
            if self.rank == 0:
                self._failures += 1
                self.metrics.write(write.step, {"failed": self._failures}, kind="checkpoint")


def _explain(write: _Write, why: str) -> str:
    return (
        f"the last checkpoint, of step {write.step}, cannot be written to {write.folder.parent}:"
        f" {why}. Make room there, or make the place reachable again, and resume the run: it goes"
        " on from the checkpoint before"
    )


def _why(error: Exception) -> str:
    """An error in words, which are never empty."""
    if isinstance(error, PartMissingError | OvertakenError):
        return str(error)
    if isinstance(error, OSError):
        return reason(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


@contextmanager
def _only_warned(what: str) -> Iterator[None]:
    """Let what is written beside a checkpoint not decide about the checkpoint."""
    try:
        yield
    except OSError as error:
        _LOG.warning("%s: %s", what, _why(error))


def _tried(write: _Write, action: Callable[[], T]) -> T:
    """Do something, again where it fails and there are tries left."""
    return Retrying(
        stop=stop_after_attempt(write.tries),
        wait=wait_exponential(FIRST_PAUSE_SECONDS),
        retry=retry_if_exception_type(OSError),
        reraise=True,
    )(action)
