"""What happened to the trials of a sweep: `trials.jsonl`, from which everything is made again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tap_platform.runs.files import all_records, append_line, record_line, utc_now

TrialState = Literal["pending", "running", "stopped", "finished", "failed"]
What = Literal["suggested", "started", "measured", "ended"]
OVER: frozenset[TrialState] = frozenset({"stopped", "finished", "failed"})


class Exploit(BaseModel):
    """A trial's change of weights and values, as population-based training orders it."""

    model_config = ConfigDict(frozen=True)

    number: int
    """Of this trial's exploits, from 1."""
    trial: str
    """Whose weights it takes."""
    step: int
    """Of that one's checkpoint."""


class TrialRecord(BaseModel):
    """How one trial stands; the last record of a trial wins."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    trial: str
    """Its id, `t0003`."""
    run: str
    """The run of the project that it is."""
    state: TrialState
    """What becomes of it; `stopped` is early, by the scheduler or the budget."""
    values: dict[str, Any]
    """What it tries, by dotted key."""
    objective: float | None
    """Measured last."""
    step: int
    """That it was measured at; 0 before."""
    time: str
    """When, UTC in ISO 8601."""
    what: What
    """What happened."""
    reason: str = ""
    """For people: why it was stopped, or failed."""
    exploit: Exploit | None = None
    """Of population-based training: what it goes on from, from here on."""

    @property
    def number(self) -> int:
        """Its place in the sweep, from 0."""
        return int(self.trial[1:])

    @property
    def is_over(self) -> bool:
        """Whether it will make no more steps."""
        return self.state in OVER


def trial_id(number: int) -> str:
    """The id of the trial of that number."""
    return f"t{number:04}"


def append_record(path: Path, record: TrialRecord) -> None:
    """Write what happened down, before anything else is done about it.

    Raises:
        OSError: it cannot be written, as on a disk that is full.
    """
    append_line(path, record_line(record.model_dump(mode="json")))


def changed(record: TrialRecord, what: What, **fields: Any) -> TrialRecord:
    """The next record of a trial."""
    return record.model_copy(update={"what": what, "time": utc_now(), **fields})


def drop_torn_line(path: Path) -> None:
    """Cut off a last line without an end: what did not count must not count once others follow."""
    if path.exists():
        written = path.read_bytes()
        os.truncate(path, written.rfind(b"\n") + 1)


def read_history(path: Path) -> list[TrialRecord]:
    """All records in the order written; a torn line, which a killed writer leaves, is passed over.

    Raises:
        ValueError: a whole line is no record.
    """
    try:
        return [TrialRecord.model_validate(line) for line in all_records(path)]
    except ValidationError as error:
        raise ValueError(f"{path} holds a line that is no trial's record: {error}") from None


def newest_records(path: Path) -> list[TrialRecord]:
    """How each trial stands, in the order in which they began."""
    return list({record.trial: record for record in read_history(path)}.values())


def ranked(records: Iterable[TrialRecord], mode: Literal["max", "min"]) -> list[TrialRecord]:
    """Trials, the best first; those that failed or were never measured last."""
    sign = -1.0 if mode == "max" else 1.0

    def order(record: TrialRecord) -> tuple[bool, float, str]:
        is_out = record.objective is None or record.state == "failed"
        return is_out, 0.0 if is_out else sign * (record.objective or 0.0), record.trial

    return sorted(records, key=order)
