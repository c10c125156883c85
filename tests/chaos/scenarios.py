"""What goes wrong, in which job, and what must hold afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tests.chaos.faults import Fault, parse
from tests.chaos.jobs import EVERY, NO_DROPOUT
from tests.chaos.measure import losses, lost_at_last_start, worlds
from tests.chaos.tracking import database_of, tracked_losses

Check = Callable[[RunDirectory], str]
"""What is wrong with a run that has ended, in words; empty if nothing is."""


@dataclass(frozen=True)
class Scenario:
    """One line of the table."""

    name: str
    faults: tuple[Fault, ...]
    by: str
    """Who makes the run go on, for people."""
    changes: dict[str, Any] = field(default_factory=dict)
    """What the job has that others have not."""
    reference: str = "plain"
    """The undisturbed run that it is compared with, in `REFERENCES`."""
    tolerance: float = 0.0
    """Largest relative distance of the loss curves; 0: all losses and weights are equal bits."""
    most_steps_lost: int = 2 * EVERY
    """A checkpoint may be on its way when the fault comes: then the one before counts."""
    drivers: int = 1
    """Starts of drivers that it takes, at most."""
    tracked: bool = False
    """Whether a tracking server follows."""
    quick: bool = False
    """Whether continuous integration plays it."""
    small_disk: bool = False
    """Whether checkpoints lie on a small disk of their own."""
    checks: tuple[Check, ...] = ()


REFERENCES: dict[str, dict[str, Any]] = {
    "plain": {},
    "spoilt": {},
    "short": {"training": {"max_steps": 16}},
    "long": {
        **NO_DROPOUT,
        # Batch norm looks at a forward pass of all workers: the whole batch, however many they are.
        "training": {"max_steps": 240, "global_batch": 8, "micro_batch": 8},
        "checkpoint": {"every_steps": 10},
    },
}
"""Jobs that nothing happens to."""


def has(kind: str, **fields: object) -> Check:
    """The run tells of something."""

    def check(run: RunDirectory) -> str:
        events = read_events(run.events, kind=kind)
        there = any(all(e.get(name) == value for name, value in fields.items()) for e in events)
        return "" if there else f"no event {kind} {fields or ''}"

    return check


def shrinks_and_grows(run: RunDirectory) -> str:
    """The run goes on with fewer workers, and then with all, which costs no step."""
    seen = [
        size for size, before in zip(worlds(run), [0, *worlds(run)], strict=False) if size != before
    ]
    if seen != [2, 1, 2]:
        return f"workers were {worlds(run)}"
    lost = lost_at_last_start(run)
    return f"growing took {lost} steps" if lost else ""


def all_arrived(run: RunDirectory) -> str:
    """The tracking server knows every loss that the run directory has."""
    known = tracked_losses(database_of(run.storage.parent), run.name)
    missing = losses(run).items() - known.items()
    return f"the tracking server lacks {len(missing)} losses" if missing else ""


def _scenario(name: str, *faults: str, by: str, **options: Any) -> Scenario:
    return Scenario(name, tuple(map(parse, faults)), by, **options)


RAY = "Ray Train starts new workers"
SUPERVISOR = "`tap train --resume` by a supervisor"
NOBODY = "nobody has to: training goes on"

SCENARIOS: tuple[Scenario, ...] = (
    _scenario(
        "quick",
        "corrupt(checkpoint, at_step=10)",
        "kill(node=b, seconds=0)",
        by=RAY,
        reference="short",
        most_steps_lost=3 * EVERY,
        checks=(has("checkpoint_skipped"),),
        quick=True,
    ),
    _scenario("worker", "kill(worker=1, at_step=14)", by=RAY),
    _scenario("first-worker", "kill(worker=0, at_step=14)", by=RAY),
    _scenario("driver", "kill(driver, at_step=14)", by=SUPERVISOR, drivers=2),
    _scenario("node", "kill(node=b, at_step=14, seconds=5)", by=f"{RAY} on the new node"),
    _scenario(
        "head",
        "kill(head, at_step=14, seconds=5)",
        by="Redis remembers: the workers do not notice",
        # So long that it trains on when the new head is there.
        reference="long",
        most_steps_lost=0,
    ),
    _scenario(
        "desk",
        "kill(node=desk, at_step=14, seconds=5)",
        by=SUPERVISOR,
        reference="long",
        most_steps_lost=20,
        drivers=3,
    ),
    _scenario("short-cut", "cut(node=b, at_step=14, seconds=2)", by=NOBODY, most_steps_lost=0),
    _scenario("cut", "cut(node=b, at_step=14, seconds=25)", by=RAY),
    _scenario(
        "slow",
        "slow(link=b, at_step=14, delay_ms=20, seconds=15)",
        by=NOBODY,
        most_steps_lost=0,
    ),
    _scenario(
        "corrupt-checkpoint",
        "corrupt(checkpoint, at_step=14)",
        "kill(worker=0)",
        by=f"{RAY}, from the checkpoint before",
        most_steps_lost=3 * EVERY,
        checks=(has("checkpoint_skipped"),),
    ),
    _scenario(
        "elastic",
        "kill(node=b, at_step=14, until_step=16)",
        by=f"{RAY}: one, then two again",
        changes={**REFERENCES["long"], "scale": {"workers": [1, 2], "resize_check_seconds": 2}},
        reference="long",
        # Rounding alone for some 30 steps; then it decides which mask or point is chosen here and
        # there. Steps of other batches would be 4 % apart in the median.
        tolerance=2e-2,
        most_steps_lost=20,
        checks=(has("resized", was=2, now=1), has("resized", was=1, now=2), shrinks_and_grows),
    ),
    _scenario(
        "sigterm",
        "sigterm(node=b, at_step=14, seconds=20)",
        by=f"{RAY} on the new node",
        changes={"scale": {"max_failures": 0}},
        most_steps_lost=0,
        checks=(has("preempted"),),
    ),
    _scenario(
        "drain",
        "drain(node=b, at_step=14, seconds=20)",
        by=f"{RAY} on the new node",
        changes={"scale": {"max_failures": 0}},
        most_steps_lost=0,
        checks=(has("preempted"),),
    ),
    _scenario(
        "sigterm-driver",
        "sigterm(driver, at_step=14)",
        by=SUPERVISOR,
        drivers=2,
        most_steps_lost=0,
        checks=(has("interrupted"),),
    ),
    _scenario(
        "disk",
        "fill(disk, at_step=14, seconds=6)",
        by=NOBODY,
        most_steps_lost=0,
        small_disk=True,
        checks=(has("checkpoint_failed"),),
    ),
    _scenario(
        "tracking",
        "stop(tracking, at_step=14, seconds=10)",
        by=f"{NOBODY}; the records arrive afterwards",
        reference="long",
        most_steps_lost=0,
        tracked=True,
        checks=(has("tracking_failed"), has("tracking_recovered"), all_arrived),
    ),
    _scenario(
        "shard",
        "corrupt(shard)",
        "kill(worker=1, at_step=14)",
        by=f"{RAY}; spoilt samples are left out",
        reference="spoilt",
        checks=(has("quarantined"),),
    ),
)
