"""How far a tracker has been told of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tap_platform.runs.files import read_json, write_json
from tap_platform.runs.metrics import MetricsRecord


@dataclass
class Cursor:
    """What was sent, kept in `tracking-NAME.json` in the run directory."""

    run_id: str | None = None
    """The tracker's name of the run."""
    offset: int = 0
    """Bytes of `metrics.jsonl` that were dealt with."""
    first_step: int = 0
    """Earlier steps are known to the tracker from before."""
    newest: dict[str, tuple[int, int]] = field(default_factory=dict)
    """For each kind of record, the highest step sent, and the attempt that measured it."""
    files: dict[str, str] = field(default_factory=dict)
    """The version of each file sent, by its path in the run directory."""
    state: str | None = None
    """The end that was sent; none while the run goes on."""

    @classmethod
    def load(cls, path: Path) -> Cursor:
        """The cursor of a file; the beginning if there is none."""
        return cls(**read_json(path)) if path.exists() else cls()

    def save(self, path: Path) -> None:
        """Write the file, atomically. One lost with its disk costs a second send of the same."""
        write_json(path, asdict(self), durable=False)

    def take(self, records: Iterable[MetricsRecord]) -> list[MetricsRecord]:
        """The records that are to be sent, marked as sent.

        Steps that a resumed run measures again are left out.
        """
        return [record for record in records if self._is_new(record)]

    def _is_new(self, record: MetricsRecord) -> bool:
        step, attempt = self.newest.get(record.kind, (self.first_step - 1, None))
        again = record.step == step and record.attempt == attempt
        if record.step <= step and not again:
            return False
        self.newest[record.kind] = (record.step, record.attempt)
        return True
