"""What happened to a run: its starts, failures and resumes, and the samples that it left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tap_platform.report.cards import shortened
from tap_platform.runs.alive import ALIVE
from tap_platform.runs.quarantine import KIND as QUARANTINED

LONGEST_REASON = 600
ROUTINE = frozenset({"checkpoint", QUARANTINED, "evaluated", ALIVE})
"""Kinds of events that are summed up, or shown elsewhere."""
GRAVE = frozenset({"failed", "interrupted", "hang", "diverged", "returned", "checkpoint_skipped"})


class Happening(NamedTuple):
    """One line of the story."""

    time: str
    """UTC, to the second."""
    attempt: int | None
    what: str
    is_grave: bool


def story_of(events: Sequence[Mapping[str, Any]]) -> list[Happening]:
    """The events in their order, without those that every run has many of."""
    return [
        Happening(_moment(event), event.get("attempt"), _told(event), event.get("kind") in GRAVE)
        for event in events
        if event.get("kind") not in ROUTINE
    ]


def checkpoints_in_words(events: Sequence[Mapping[str, Any]]) -> str:
    """How many checkpoints were written, and the newest; empty where there is none."""
    steps = [event["step"] for event in events if event.get("kind") == "checkpoint"]
    if not steps:
        return ""
    many = f"{len(steps):,} checkpoint{'s' if len(steps) > 1 else ''} written"
    return f"{many}, the newest of step {max(steps):,}"


def _told(event: Mapping[str, Any]) -> str:
    """An event in words; one of an unknown kind is told by its fields."""
    match event.get("kind"):
        case "started":
            workers = event.get("workers")  # a run of runs has none of its own
            return (
                f"started on {workers} workers by {event.get('strategy')}" if workers else "started"
            )
        case "training":
            origin = event.get("goes_on_from")
            return f"training goes on from {origin}" if origin else "training begins at step 0"
        case "failed":
            return f"failed: {shortened(str(event.get('reason')), LONGEST_REASON)}"
        case "checkpoint_skipped":
            reason = shortened(str(event.get("reason")), LONGEST_REASON)
            return f"checkpoint {event.get('checkpoint')} is skipped: {reason}"
    if told := illness_told(event):
        return told
    stamp = {"time", "kind", "attempt", "rank"}
    fields = ", ".join(f"{k} {v}" for k, v in event.items() if k not in stamp and v is not None)
    kind = str(event.get("kind", "something")).replace("_", " ")
    return shortened(f"{kind}: {fields}" if fields else kind, LONGEST_REASON)


def illness_told(event: Mapping[str, Any]) -> str:
    """What was wrong with the training itself, in words; empty for events of other kinds."""
    step, samples = event.get("step"), len(event.get("samples", ()))
    match event.get("kind"):
        case "hang":
            others = ", waiting for the others" if event.get("waits_for_others") else ""
            return f"worker {event.get('rank')} hung at step {step}, {event.get('phase')}{others}"
        case "step_skipped":
            return f"step {step} changed nothing: {event.get('reason')}"
        case "returned":
            where = event.get("to") or "the start"
            return f"went back from step {step} to {where}, and left out {samples} samples"
        case "diverged":
            return f"gave up at step {step}: going back had not helped"
        case "loss_spike":
            loss, usual = event.get("loss", 0), event.get("median", 0)
            return f"the loss was {loss:.3g} at step {step}, {usual:.3g} being usual"
    return ""


def _moment(event: Mapping[str, Any]) -> str:
    try:
        return f"{datetime.fromisoformat(str(event['time'])):%Y-%m-%d %H:%M:%S}"
    except (KeyError, ValueError):
        return "-"
