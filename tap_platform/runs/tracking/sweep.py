"""A sweep as trackers show it: a parent of its trials, with space, objective, best and a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import all_records, read_json
from tap_platform.runs.metrics import MetricsRecord
from tap_platform.runs.status import RunStatus, read_status
from tap_platform.runs.sweep_account import OVER
from tap_platform.runs.tables import TableFile
from tap_platform.runs.tracking import Follower, build_tracker
from tap_platform.runs.tracking.base import Tracker, as_text, flatten
from tap_platform.runs.tracking.cursor import Cursor
from tap_platform.runs.tracking.shown import LINK, TRIALS, Shown, shown_sweep
from tap_platform.runs.tracking.source import files_below

TABLE = "trials"
KIND = "sweep"
Trial = Mapping[str, Any]
"""A line of `trials.jsonl`."""


class SweepSource:
    """The directory of a sweep, `<storage>/<project>/sweeps/<sweep>`."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDirectory(folder)

    def shown(self) -> Shown:
        """The sweep."""
        return shown_sweep(self.run.path)

    def status(self) -> RunStatus:
        """Of the sweep."""
        return read_status(self.run.status)

    def records(self, offset: int) -> tuple[list[MetricsRecord], int]:
        """One for each trial that is over; the offset counts lines of `trials.jsonl`."""
        history = self._history()
        points = list(_points(history, self._is_best_high()))
        new = [point for line, point in points if line >= offset]
        return new, max(offset, len(history))

    def completed(self, records: Sequence[MetricsRecord], cursor: Cursor) -> list[MetricsRecord]:
        """As they are."""
        return list(records)

    def send_changes(self, tracker: Tracker, cursor: Cursor) -> int:
        """A sweep has none."""
        return 0

    def changes_before(self, step: int) -> int:
        """None."""
        return 0

    def files(self, status: RunStatus) -> Iterator[Path]:
        """The sweep itself, its trials, what was made of it for people; at its end its events."""
        single = [self._spec, self._trials]
        if status.ended:
            single.append(self.run.events)
        yield from (path for path in single if path.is_file())
        if status.ended:
            yield from files_below(self.run.report)

    def is_sent_once(self, path: Path) -> bool:
        """None is."""
        return False

    def send_file(self, path: Path, tracker: Tracker, first_step: int) -> None:
        """The sweep's settings, or how its trials stand."""
        if path == self._spec:
            spec = read_json(path)
            tracker.log_params(dict(flatten({k: v for k, v in spec.items() if k != "base"})))
            tracker.log_params(dict(flatten({"base": spec.get("base", {})})))
        elif path == self._trials:
            self._send_trials(tracker)
        tracker.log_file(path, path.relative_to(self.run.path).as_posix())

    def _send_trials(self, tracker: Tracker) -> None:
        newest = list({str(line.get("trial")): line for line in self._history()}.values())
        best = _best(newest, self._is_best_high())
        if best is not None:
            tracker.set_tags(_best_tags(best))
        status = self.status()
        tracker.describe(self._description(newest, best, status))
        if status.ended:
            # Of a step, trackers keep the first: the table comes when no trial changes any more.
            tracker.log_table(TABLE, _over(newest), _table(newest))

    def _description(self, trials: Sequence[Trial], best: Trial | None, status: RunStatus) -> str:
        objective = self._objective()
        lines = [
            f"Sweep **{self.run.name}**, {status.state}: {_over(trials)} of {len(trials)} trials"
            f" over; objective {objective.get('metric', '')} ({objective.get('mode', 'max')})"
        ]
        if best is not None:
            lines.append(f"- best: **{best['objective']:.6g}**, trial {best['trial']}")
            lines += [f"  - {key}: {as_text(value)}" for key, value in best["values"].items()]
        return "\n".join(lines)

    @property
    def _spec(self) -> Path:
        return self.run.path / LINK

    @property
    def _trials(self) -> Path:
        return self.run.path / TRIALS

    def _history(self) -> list[Trial]:
        return list(all_records(self._trials))

    def _objective(self) -> dict[str, Any]:
        return dict(read_json(self._spec).get("objective") or {})

    def _is_best_high(self) -> bool:
        return self._objective().get("mode", "max") == "max"


def follow_sweep(folder: Path, config: TrackingConfig) -> Follower | None:
    """A follower of a sweep's directory; None where nothing tracks."""
    tracker = build_tracker(config)
    return Follower(SweepSource(folder), tracker, config.interval) if tracker else None


@contextmanager
def tracked_sweep(
    folder: Path,
    config: TrackingConfig,
    within: AbstractContextManager[None] = nullcontext(),  # noqa: B008, holds no state
) -> Iterator[None]:
    """Let a tracker follow a sweep; its last look comes after the sweep's end is recorded.

    What it lacks then is an event `tracking_behind`, and `tap runs sync FOLDER` sends it.

    Args:
        folder: The sweep's directory.
        config: Where it is shown.
        within: Entered after the tracker's start, and left before its last look.
    """
    follower = follow_sweep(folder, config)
    if follower is None:
        with within:
            yield
        return
    follower.start()
    try:
        with within:
            yield
    finally:
        follower.stop(config.final_timeout)


def tracking_of_sweep(folder: Path) -> TrackingConfig:
    """Where a sweep is shown: where its trials are, by the job that they share."""
    base = read_json(folder / LINK).get("base") or {}
    return TrackingConfig.model_validate(base.get("tracking") or {})


def _points(history: Iterable[Trial], highest: bool) -> Iterator[tuple[int, MetricsRecord]]:
    """A record for each trial that has ended, with the number of its line."""
    over, best = 0, math.nan
    for number, line in enumerate(history):
        if line.get("state") not in OVER:  # one that a scheduler stops has no line of its own
            continue
        over += 1
        values = {"trials_over": float(over)}
        objective = line.get("objective")
        if objective is not None and line.get("state") != "failed":
            value = float(objective)
            is_better = not best >= value if highest else not best <= value
            best = value if is_better and not math.isnan(value) else best
            values["objective"] = value
        if not math.isnan(best):
            values["best_objective"] = best
        yield number, MetricsRecord(over, KIND, values, 1, line["time"])


def _best(trials: Iterable[Trial], highest: bool) -> Trial | None:
    measured = [
        each
        for each in trials
        if each.get("state") != "failed"
        and each.get("objective") is not None
        and math.isfinite(float(each["objective"]))
    ]
    pick = max if highest else min
    return pick(measured, key=lambda each: float(each["objective"])) if measured else None


def _best_tags(best: Trial) -> dict[str, str]:
    tags = {f"best.{key}": as_text(value) for key, value in best["values"].items()}
    told = {"best.trial": best["trial"], "best.run": best["run"]}
    return {**tags, **told, "best.objective": f"{best['objective']:.6g}"}


def _over(trials: Iterable[Trial]) -> int:
    return sum(each.get("state") in ("stopped", "finished", "failed") for each in trials)


def _table(trials: Sequence[Trial]) -> TableFile:
    keys = list(dict.fromkeys(key for each in trials for key in each["values"]))
    rows = [
        [
            *(str(each.get(name) or "") for name in ("trial", "run", "state")),
            each.get("objective"),
            int(each.get("step") or 0),
            *(as_text(each["values"][key]) if key in each["values"] else "" for key in keys),
            str(each.get("reason") or ""),
        ]
        for each in trials
    ]
    return TableFile(["trial", "run", "state", "objective", "step", *keys, "reason"], rows)
