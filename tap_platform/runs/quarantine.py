"""The bad samples that a run has met: written to its events, and read from them again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_platform.runs.events import EventLog, read_events

if TYPE_CHECKING:
    from datamodules.shards.records import BadSample

KIND = "quarantined"


@dataclass(slots=True)
class QuarantinedSample:
    """A bad sample, met once or more."""

    split: str
    """`train` or `val`."""
    shard: str
    key: str
    reason: str
    times: int = 0
    """How often it was met: once an epoch, and once each time that a run which was killed read it
    again."""
    attempts: list[int] = field(default_factory=list)
    """The starts of the run that met it."""


def recorder(events: EventLog, split: str) -> Callable[[BadSample], None]:
    """What a `Quarantine` calls to have its bad samples in a run's events.

    Args:
        events: the run's events.
        split: where the samples come from, `train` or `val`.
    """

    def record(bad: BadSample) -> None:
        events.record(KIND, split=split, shard=bad.shard, key=bad.key, reason=bad.reason)

    return record


def quarantined(path: Path) -> list[QuarantinedSample]:
    """The bad samples in a run's `events.jsonl`, each once, in the order that they were met."""
    found: dict[tuple[str, ...], QuarantinedSample] = {}
    for event in read_events(path, KIND):
        split, shard = str(event.get("split", "")), str(event["shard"])
        key, reason = str(event["key"]), str(event["reason"])
        empty = QuarantinedSample(split, shard, key, reason)
        sample = found.setdefault((split, shard, key, reason), empty)
        sample.times += 1
        if event["attempt"] not in sample.attempts:
            sample.attempts.append(event["attempt"])
    return list(found.values())


def by_reason(samples: Iterable[QuarantinedSample]) -> dict[str, int]:
    """How many samples each kind of fault has, the commonest first; numbers in a reason are N."""
    return dict(Counter(re.sub(r"\d+", "N", sample.reason) for sample in samples).most_common())


def as_json(samples: list[QuarantinedSample]) -> dict[str, Any]:
    """The samples, and the count by reason, as JSON has them."""
    return {"samples": [asdict(sample) for sample in samples], "by_reason": by_reason(samples)}
