"""The account of one run: whose it is, how far it is, what it took and what it brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tap_platform.runs.goodput import Goodput
from tap_platform.runs.usage import MachineSpan, WorkerSpan

AccountState = Literal["preparing", "running", "finished", "failed", "interrupted", "lost"]
"""A run's state, and `lost`: it was going on, and gives no sign of life any more."""


class Spending(NamedTuple):
    """What a run took within some time."""

    hours: float
    """Of its machines."""
    gpu_hours: float
    """Of all its GPUs together; 0 on CPUs."""
    cost: float | None
    """Of its machines; None where nobody has told a price."""


@dataclass(frozen=True)
class RunAccount:
    """What a run directory tells of one run. Times are UTC in ISO 8601."""

    name: str
    project: str
    path: str
    """Its directory; of a mirror, the copy on this computer."""
    owner: str
    """Who answers for it: the tag `owner`, or `user@host` of who submitted it; may be empty."""
    team: str
    """The tag `team`; may be empty."""
    cost_centre: str
    """The tag `cost_centre`; may be empty."""
    state: AccountState
    cause: str
    """Why it failed, was interrupted or is lost, in a line; empty for others."""
    message: str
    """What the run itself says of its state, whole."""
    step: int
    """Optimizer steps done; stages or trials, of a run that holds runs."""
    max_steps: int | None
    started: str
    updated: str
    """The last sign of life."""
    ended: str | None
    """None while it goes on."""
    attempts: int
    failures: int
    """Workers that were lost without notice, drivers that were lost, attempts that failed."""
    workers: int
    """As many as they were last."""
    parent: str | None
    """The run that this one is a stage of."""
    holds_runs: bool
    """Whether it is a pipeline or an ablation, whose runs have accounts of their own."""
    sweep: str | None
    """The sweep that this run is a trial of."""
    trial: str | None
    """Which trial of it."""
    recipe: str
    """What is optimized, such as `tap_pretrain`; empty where nobody knows."""
    tags: Mapping[str, str]
    """All labels."""
    results: Mapping[str, float]
    """Measures on held-out data, by names such as `final/box_iou`: the last ones of the final
    evaluation and of suites, the best ones of the looks while it trained."""
    seconds_per_step: float | None
    """Of one optimizer step, as it was measured last."""
    goodput: Goodput
    machines: tuple[MachineSpan, ...] = ()
    """When it held machines."""
    shifts: tuple[WorkerSpan, ...] = ()
    """When it had workers; their GPUs are told."""
    faults: tuple[str, ...] = field(default=())
    """What of the directory could not be read, for people."""

    @property
    def progress(self) -> float:
        """How far it is, from 0 to 1."""
        if self.state == "finished":
            return 1.0
        return min(1.0, self.step / self.max_steps) if self.max_steps else 0.0

    @property
    def goes_on(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state in ("preparing", "running")

    @property
    def hours(self) -> float:
        """Hours that it held machines."""
        return self.spent().hours

    @property
    def gpu_hours(self) -> float:
        """Hours of all its GPUs together; 0 on CPUs."""
        return self.spent().gpu_hours

    @property
    def cost(self) -> float | None:
        """Of its machines so far; None where nobody has told a price."""
        return self.spent().cost

    @property
    def currency(self) -> str | None:
        """Of the cost; None where there is none."""
        priced = [span.currency for span in self.machines if span.price_per_hour is not None]
        return priced[-1] if priced else None

    @property
    def hours_to_go(self) -> float | None:
        """Until its last step, if it goes on at its pace; None where that is not known."""
        if not self.goes_on or not self.max_steps or self.seconds_per_step is None:
            return None
        return max(0, self.max_steps - self.step) * self.seconds_per_step / 3600

    @property
    def cost_to_go(self) -> float | None:
        """Of those hours, at the price of now; None where one is not known."""
        price = self.machines[-1].price_per_hour if self.machines else None
        hours = self.hours_to_go
        return None if price is None or hours is None else price * hours

    def spent(self, since: float | None = None, until: float | None = None) -> Spending:
        """What it took between two times.

        Args:
            since: seconds since 1970; None: from its start.
            until: seconds since 1970; None: up to now, or its end.
        """

        def hours(span: MachineSpan | WorkerSpan) -> float:
            begin = span.begin if since is None else max(span.begin, since)
            end = span.end if until is None else min(span.end, until)
            return max(0.0, end - begin) / 3600

        priced = [span for span in self.machines if span.price_per_hour is not None]
        return Spending(
            hours=sum(map(hours, self.machines)),
            gpu_hours=sum(hours(span) * (span.gpus or 0) for span in self.shifts),
            cost=sum(hours(s) * (s.price_per_hour or 0.0) for s in priced) if priced else None,
        )
