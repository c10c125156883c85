"""Before Ray Train resizes a run that is well, its workers write a checkpoint."""

from __future__ import annotations

import time
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.stop_request import ASKED_TO_END, RESIZE, StopRequest

LOOK_EVERY_SECONDS = 0.1


class CheckpointBeforeResize(ControllerCallback, WorkerGroupCallback):
    """Ask the workers to end with a checkpoint, and wait for it.

    Ray Train ends workers in the middle of a step when nodes have come: the steps since the last
    checkpoint would be made again. It lives in Ray Train's controller, which looks after nothing
    else meanwhile: workers that die are waited for until the grace is over.
    """

    def __init__(self, run: RunDirectory, attempt: int, grace: float) -> None:
        """Ask nothing yet.

        Args:
            run: whose workers.
            attempt: the start of it that the workers belong to.
            grace: seconds that they have.
        """
        self.run = run
        self.attempt = attempt
        self.grace = grace
        self._is_training = False

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """There are workers to ask."""
        self._is_training = True

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """There are none any more."""
        self._is_training = False

    def before_worker_group_abort(self, worker_group_context: Any) -> None:
        """There are none any more."""
        self._is_training = False

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Return once they have written, or their time is out; a first start has none to ask."""
        request = StopRequest(self.run)
        if not self._is_training or request.asked():
            return
        before = self._endings()
        request.ask(RESIZE)
        deadline = time.monotonic() + self.grace
        while self._endings() == before and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_SECONDS)
        if request.why == RESIZE:  # else the driver has asked meanwhile, and means it
            request.clear()

    def _endings(self) -> int:
        """How often workers of this attempt have ended because they were asked."""
        events = read_events(self.run.events, ASKED_TO_END)
        return sum(event["attempt"] == self.attempt for event in events)
