"""How a sweep stands, from its directory alone: its trials, the best of them, what is broken."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tap_platform.runs.files import all_records, read_json
from tap_platform.runs.status import RunStatus, read_status

CUT_SHORT = "cut short"
"""A trial that trains or waits by its record, of a sweep that has ended: it goes on with it."""
STATES = ("running", "pending", CUT_SHORT, "finished", "stopped", "failed")
"""Of trials, in the order in which people are told of them."""
OVER = frozenset({"finished", "stopped", "failed"})


@dataclass(frozen=True)
class Trial:
    """How one trial stands."""

    name: str
    """Its id, such as `t0003`."""
    run: str
    """The run of the project that it is."""
    state: str
    objective: float | None
    """As it was measured last; None before that, or where it is no finite number."""
    step: int
    """That it was measured at."""
    values: Mapping[str, Any]
    """What it tries, by dotted key."""
    reason: str
    """Why it was stopped, or failed."""


@dataclass(frozen=True)
class SweepAccount:
    """The trials of a sweep, the best first; those that failed or were never measured come last."""

    metric: str
    """What is to come out best; empty where the sweep's file does not tell."""
    planned: int | None
    """How many trials there will be at most; None if only time or money ends the sweep."""
    trials: tuple[Trial, ...]
    faults: tuple[str, ...]
    """What could not be read, for people."""

    @property
    def best(self) -> Trial | None:
        """The trial with the best measure; None before there is one."""
        first = next(iter(self.trials), None)
        return first if first is not None and _counts(first) else None

    @property
    def over(self) -> int:
        """How many trials will make no more steps."""
        return sum(trial.state in OVER for trial in self.trials)

    @property
    def progress(self) -> str:
        """`7 of 12 trials`."""
        most = f"{self.planned:,}" if self.planned else "?"
        return f"{self.over:,} of {most} trials"

    @property
    def counts(self) -> str:
        """`2 running, 5 finished, 1 failed`; empty before the first trial."""
        found = Counter(trial.state for trial in self.trials)
        return ", ".join(f"{found[state]:,} {state}" for state in STATES if found[state])

    @property
    def best_in_words(self) -> str:
        """`scenes_lr-t0003, val/box_iou 0.7123 at step 270`; empty before there is one."""
        best = self.best
        if best is None or best.objective is None:
            return ""
        return f"{best.run}, {self.metric} {best.objective:.4g} at step {best.step:,}"


def sweep_account(sweep: Path) -> SweepAccount:
    """Read a sweep's directory.

    Args:
        sweep: the folder; a file that is missing or broken is told among the faults.
    """
    faults: list[str] = []
    spec = _spec(sweep / "sweep.json", faults)
    objective = _section(spec, "objective")
    sign = -1.0 if objective.get("mode") == "min" else 1.0
    status = _status(sweep / "status.json")
    trials = _trials(sweep / "trials.jsonl", faults)
    if status is not None and status.ended:
        trials = [t if t.state in OVER else replace(t, state=CUT_SHORT) for t in trials]

    def place(trial: Trial) -> tuple[bool, float, str]:
        return not _counts(trial), -sign * (trial.objective or 0.0), trial.name

    return SweepAccount(
        metric=str(objective.get("metric", "")),
        planned=_planned(status, spec),
        trials=tuple(sorted(trials, key=place)),
        faults=tuple(faults),
    )


def _counts(trial: Trial) -> bool:
    return trial.objective is not None and trial.state != "failed"


def _spec(path: Path, faults: list[str]) -> Mapping[str, Any]:
    try:
        spec = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        faults.append(str(error))
        return {}
    return spec if isinstance(spec, dict) else {}


def _section(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = spec.get(name)
    return section if isinstance(section, dict) else {}


def _status(path: Path) -> RunStatus | None:
    """None where it is missing or broken."""
    with suppress(OSError, ValueError):
        return read_status(path)
    return None


def _planned(status: RunStatus | None, spec: Mapping[str, Any]) -> int | None:
    """The driver has counted a grid's; before it has begun, a file may tell."""
    planned = (status and status.max_steps) or _section(spec, "budget").get("trials")
    return planned if isinstance(planned, int) else None


def _trials(path: Path, faults: list[str]) -> list[Trial]:
    """The last record of each trial; lines that are none are counted among the faults."""
    trials: dict[str, Trial] = {}
    broken = 0
    try:
        for record in all_records(path):
            try:
                trial = _trial(record)
            except (KeyError, TypeError, ValueError):
                broken += 1
                continue
            trials[trial.name] = trial
    except OSError as error:
        faults.append(f"{path} cannot be read: {error.strerror}")
    if broken:
        lines = "1 line that is" if broken == 1 else f"{broken:,} lines that are"
        faults.append(f"{path} holds {lines} no trial's record")
    return list(trials.values())


def _trial(record: Mapping[str, Any]) -> Trial:
    objective = record.get("objective")
    number = None if objective is None else float(objective)
    values = record.get("values")
    return Trial(
        name=str(record["trial"]),
        run=str(record.get("run") or record["trial"]),
        state=str(record["state"]),
        objective=number if number is not None and math.isfinite(number) else None,
        step=int(record.get("step") or 0),
        values=values if isinstance(values, dict) else {},
        reason=str(record.get("reason") or ""),
    )
