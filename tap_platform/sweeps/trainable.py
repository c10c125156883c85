"""A trial as Ray Tune sees it: an actor that starts it, reports its measures, and ends it."""

from __future__ import annotations

import math
from typing import Any

from ray.tune import Trainable

from tap_platform.sweeps.live_trial import LiveTrial, TrialOrder, Waiting, begin
from tap_platform.sweeps.objective import NeverMeasuredError
from tap_platform.sweeps.orders import read_order
from tap_platform.sweeps.schedulers import OBJECTIVE, STEP

ENDED, REASON, HOPELESS = "ended", "reason", "hopeless"
"""Of a last result: how the trial ended, why, and whether every other would end so."""


class TrialDriver(Trainable):
    """Holds no resources of its own: the workers' are Ray Train's to take.

    A class, and no function: Ray Tune lets it end its workers before it ends it.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start nothing yet; an actor that cannot start is tried again."""
        self._order = TrialOrder.model_validate_json(config["order"])
        self._live: LiveTrial | None = None

    def step(self) -> dict[str, Any]:
        """The next measure, or the end; nothing while there is none, as a stop waits for us."""
        try:
            return self._next()
        except NeverMeasuredError as error:
            return {"done": True, ENDED: "failed", REASON: str(error), HOPELESS: True}
        except Exception as error:  # of whatever kind: the trial has failed, and others go on
            why = str(error) or type(error).__name__
            return {"done": True, ENDED: "failed", REASON: why}

    def cleanup(self) -> None:
        """End the workers, so that the next trial finds room."""
        if self._live is not None:
            self._live.stop("the sweep")

    def _next(self) -> dict[str, Any]:
        live = self._follow_orders()
        measure = live.measure()
        if measure is Waiting.NOTHING_YET:
            return {}
        if measure is None:
            return {"done": True, ENDED: "finished", REASON: ""}
        if not math.isfinite(measure.objective):
            why = f"{self._order.metric} is {measure.objective} at step {measure.step}"
            return {"done": True, ENDED: "failed", REASON: why}
        return {STEP: measure.step, OBJECTIVE: measure.objective}

    def _follow_orders(self) -> LiveTrial:
        """The trial, begun, or gone on with from where the sweep wants it."""
        if self._live is None:
            self._order = read_order(self._order)
            self._live = begin(self._order)
        elif (order := read_order(self._order)).exploit != self._order.exploit:
            self._order = order
            self._live.exploit(order)
        return self._live
