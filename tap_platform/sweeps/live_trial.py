"""What a sweep needs of a trial that trains, whatever trains it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from tap_platform.config.job import JobConfig
from tap_platform.sweeps.objective import Measure
from tap_platform.sweeps.records import Exploit

REAL = "tap_platform.sweeps.run_trial:RunTrial"


class TrialOrder(BaseModel):
    """All that the driver of a trial is told."""

    model_config = ConfigDict(frozen=True)

    sweep: str
    """Path of the sweep's directory."""
    trial: str
    """Its id."""
    run: str
    """Path of its run's directory."""
    job: JobConfig
    """What it trains."""
    metric: str
    """What is measured."""
    known: int
    """The step up to which it has been measured."""
    exploit: Exploit | None
    """The change that it is to have made, if there is one."""
    price_per_hour: float = 0.0
    """What its machines cost in an hour; 0 where nobody has said."""
    currency: str = "USD"
    """Of that price."""
    runner: str = REAL
    """`package.module:Class` of the trial."""


class Waiting(Enum):
    """What a trial says that trains on."""

    NOTHING_YET = "nothing yet"


class LiveTrial(Protocol):
    """A trial that trains."""

    def measure(self) -> Measure | Waiting | None:
        """Wait for the next measure, a second or so; None at its end.

        Raises:
            NeverMeasuredError: if the objective is not there: no trial will have it.
            Exception: if it has failed.
        """
        ...

    def exploit(self, order: TrialOrder) -> None:
        """Go on from the weights of another trial, with the job of the order."""
        ...

    def stop(self, why: str) -> None:
        """End it, with a checkpoint, and wait until it holds nothing any more."""
        ...


def begin(order: TrialOrder) -> LiveTrial:
    """Start, or go on with, the trial of an order."""
    module, _, name = order.runner.partition(":")
    made: Callable[[TrialOrder], Any] = getattr(importlib.import_module(module), name)
    live: LiveTrial = made(order)
    return live
