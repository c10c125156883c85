"""How far a tracker has been told of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from tap_platform.runs.files import read_json, write_json
from tap_platform.runs.metrics import MetricsRecord

_CLOCK = "time"
"""Stands for the clock among the kinds of records."""


@dataclass
class Cursor:
    """What was sent, kept in `tracking-NAME.json` in the run directory."""

    run_id: str | None = None
    """The tracker's name of the run."""
    offset: int = 0
    """How much of the measures was dealt with: bytes of `metrics.jsonl`."""
    first_step: int = 0
    """Earlier steps are known to the tracker from before."""
    newest: dict[str, tuple[int, int]] = field(default_factory=dict)
    """For each kind of record, the highest step sent, and the attempt that measured it."""
    files: dict[str, str] = field(default_factory=dict)
    """The version of each file sent, by its path in the run directory."""
    changes: int = 0
    """How many changes of the settings were sent."""
    state: str | None = None
    """The end that was sent; none while the run goes on."""

    @classmethod
    def load(cls, path: Path) -> Cursor:
        """The cursor of a file; the beginning if there is none."""
        if not path.exists():
            return cls()
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in read_json(path).items() if key in known})

    def save(self, path: Path) -> None:
        """Write the file, atomically. One lost with its disk costs a second send of the same."""
        write_json(path, asdict(self), durable=False)

    def take(self, records: Iterable[MetricsRecord]) -> list[MetricsRecord]:
        """The records that are to be sent, marked as sent.

        Steps that a resumed run measures again are left out.
        """
        return [record for record in records if self._is_new(record)]

    def is_first_of_step(self, step: int) -> bool:
        """Whether no record of this step or a later one has been clocked; it is from now on."""
        if step <= self.newest.get(_CLOCK, (self.first_step - 1, 0))[0]:
            return False
        self.newest[_CLOCK] = (step, 0)
        return True

    def _is_new(self, record: MetricsRecord) -> bool:
        step, attempt = self.newest.get(record.kind, (self.first_step - 1, None))
        again = record.step == step and record.attempt == attempt
        if record.step <= step and not again:
            return False
        self.newest[record.kind] = (record.step, record.attempt)
        return True
