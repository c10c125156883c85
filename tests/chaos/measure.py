"""What a fault cost a run, read from the run's own records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import torch

from tap_platform.config.load import validate_job
from tap_platform.runs.checkpoints import checkpoint_place
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.files import all_records, read_json
from tap_platform.runs.metrics import MetricsRecord, parse_metrics, read_metrics
from tap_platform.training.weights import load_model_weights


@dataclass(frozen=True)
class Cost:
    """What a fault cost."""

    steps: int
    """The last step recorded before it, less the step that the run went on from."""
    seconds: float
    """From the fault to the first step recorded after it, by workers that go on."""


def recorded(run: RunDirectory) -> list[MetricsRecord]:
    """Every record of training, in the order written, steps that were done twice too."""
    lines = parse_metrics(all_records(run.metrics))
    return [record for record in lines if record.kind == "train"]


def last_step(run: RunDirectory) -> int:
    """The latest step that is recorded; 0 before the first."""
    return max((record.step for record in recorded(run)), default=0)


def losses(run: RunDirectory) -> dict[int, float]:
    """The loss curve that is left."""
    return {r.step: r.values["loss"] for r in read_metrics(run.metrics) if r.kind == "train"}


def starts(run: RunDirectory, since: float = 0) -> list[tuple[float, int]]:
    """When the workers were started after a time, and the step that they went on from."""
    events = [(_time(event["time"]), event) for event in read_events(run.events, kind="training")]
    return [(at, _step(event["goes_on_from"])) for at, event in events if at > since]


def worlds(run: RunDirectory) -> list[int]:
    """Numbers of workers, one for each start of them."""
    return [event["workers"] for event in read_events(run.events, kind="training")]


def cost_of(run: RunDirectory, fault: float) -> Cost:
    """What the fault of a time cost a run that has ended.

    Args:
        run: the run.
        fault: when it happened, seconds since 1970.
    """
    times = [(_time(record.time), record.step) for record in recorded(run)]
    before = max((step for at, step in times if at <= fault), default=0)
    began = starts(run, since=fault)
    back, goes_on_from = began[0] if began else (fault, before)
    # Survivors may have ended a step after the fault, before they were stopped.
    before = max(before, max((step for at, step in times if at <= back), default=0))
    after = min((at for at, _ in times if at > back), default=float("nan"))
    return Cost(max(0, before - goes_on_from), after - fault)


def lost_at_last_start(run: RunDirectory) -> int:
    """Steps that the last workers had to make again."""
    at, goes_on_from = starts(run)[-1]
    times = [(_time(record.time), record.step) for record in recorded(run)]
    return max((step for time, step in times if time <= at), default=0) - goes_on_from


def final_weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    """The weights of the run's last step."""
    job = validate_job(read_json(run.config), where=str(run.config))
    place = checkpoint_place(run, job.checkpoint)
    return load_model_weights(place / f"step-{job.training.max_steps}")


def differences(run: RunDirectory, other: RunDirectory) -> str:
    """What differs, in words, between two runs that should be equal; empty if nothing does."""
    mine, theirs = losses(run), losses(other)
    if mine.keys() != theirs.keys():
        return f"steps {sorted(mine.keys() ^ theirs.keys())} are recorded of one run only"
    if unequal := [step for step in mine if mine[step] != theirs[step]]:
        return f"losses differ from step {unequal[0]} on"
    ours, others = final_weights(run), final_weights(other)
    unequal_names = [name for name in others if not torch.equal(ours[name], others[name])]
    return f"{len(unequal_names)} weights differ, {unequal_names[0]} first" if unequal_names else ""


def farthest(run: RunDirectory, other: RunDirectory) -> float:
    """The largest relative distance between two loss curves."""
    mine, theirs = losses(run), losses(other)
    assert mine.keys() == theirs.keys(), "one run lacks steps"
    return max(abs(mine[step] - theirs[step]) / abs(theirs[step]) for step in theirs)


def _step(checkpoint: str | None) -> int:
    return int(checkpoint.removeprefix("step-")) if checkpoint else 0


def _time(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
