"""From the files of a run directory to the run's account; what is broken is told, not fatal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import merge
from pathlib import Path
from typing import Any

import orjson

from tap_platform.runs.account import AccountState, RunAccount
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.goodput import Goodput, GoodputClock
from tap_platform.runs.status import RunStatus, read_status
from tap_platform.runs.usage import Usage, WorkerSpan

LOST_AFTER_SECONDS = 3600.0
"""Without a sign of life, a run that should go on is lost."""
SWEEP = "sweep.json"
"""What tells in a run directory that the run is a trial: `sweep` and `trial`."""
_MEASURED = ("val", "final")
_SUITES = "eval_"
_COST_CENTRES = ("cost_centre", "cost-centre", "cost_center", "cost-center")
_LONGEST_CAUSE = 240


@dataclass
class _Story:
    """What events and metrics tell, read once and in the order of time."""

    usage: Usage = field(default_factory=Usage)
    clock: GoodputClock = field(default_factory=GoodputClock)
    results: dict[str, float] = field(default_factory=dict)
    seconds_per_step: float | None = None

    def take(self, now: float, record: Mapping[str, Any], measured: bool) -> None:
        """A line of events, or of metrics.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is no such line.
        """
        if not measured:
            self.usage.take([record])
            self.clock.event(record, now)
            return
        kind, values = record["kind"], record["values"]
        if kind == "train":
            self._train(now, int(record["step"]), values)
        elif kind in _MEASURED or kind.startswith(_SUITES):
            self._measure(kind, values)

    def _train(self, now: float, step: int, values: Mapping[str, Any]) -> None:
        self.usage.seen(now)
        pace = float(values.get("speed/seconds_per_step", math.nan))
        wait = float(values.get("speed/data_wait_share", 0.0))
        if math.isfinite(pace):
            self.seconds_per_step = pace
            self.clock.measured(step, now, pace, wait if math.isfinite(wait) else 0.0)

    def _measure(self, kind: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            full, number = f"{kind}/{name}", float(value)
            if not math.isfinite(number):
                continue
            before = self.results.get(full)
            if before is None or kind != "val":
                self.results[full] = number
            else:
                self.results[full] = (min if "loss" in name else max)(before, number)


def account_of(run: RunDirectory, now: float | None = None) -> RunAccount:
    """The account of a run, from its directory alone.

    Args:
        run: the run.
        now: the time to count up to, seconds since 1970; by default the present.

    Raises:
        FileNotFoundError: it has no status.
        ValueError: its status is broken.
    """
    now = time.time() if now is None else now
    faults: list[str] = []
    status = read_status(run.status)
    config, made_of, link = (
        _document(path, faults) for path in (_config_path(run), run.provenance, run.path / SWEEP)
    )
    story = _story(run, faults)
    usage = story.usage
    usage.seen(_seconds(status.updated))
    state = _state(status, usage.last, now)
    goes_on = state in ("preparing", "running")
    until = now if goes_on else usage.last
    tags = _tags(config)
    return RunAccount(
        name=run.name,
        project=run.project,
        path=str(run.path),
        owner=tags.get("owner") or str(made_of.get("owner") or ""),
        team=tags.get("team", ""),
        cost_centre=next((tags[key] for key in _COST_CENTRES if key in tags), ""),
        state=state,
        cause=_cause(status, state, usage.last),
        message=status.message,
        step=status.step,
        max_steps=status.max_steps,
        started=status.started,
        updated=_iso(usage.last),
        ended=None if goes_on else status.updated if status.ended else _iso(usage.last),
        attempts=status.attempt,
        failures=usage.failures,
        workers=usage.workers or status.world_size or 0,
        parent=status.parent,
        holds_runs=bool(config) and not run.config.is_file(),
        sweep=_text(link.get("sweep")),
        trial=_text(link.get("trial")),
        recipe=str(_section(config, "recipe").get("type", "")),
        tags=tags,
        results=story.results,
        seconds_per_step=story.seconds_per_step,
        goodput=_goodput(story, until),
        machines=tuple(usage.machine_spans(until)),
        shifts=tuple(_with_gpus(span, config) for span in usage.worker_spans(until)),
        faults=tuple(faults),
    )


def _state(status: RunStatus, last: float, now: float) -> AccountState:
    silent = not status.ended and now - last > LOST_AFTER_SECONDS
    return "lost" if silent else status.state


def _cause(status: RunStatus, state: AccountState, last: float) -> str:
    if state == "lost":
        return f"no sign of life since {_iso(last)[:16].replace('T', ' ')} UTC"
    if state not in ("failed", "interrupted"):
        return ""
    lines = status.message.strip().splitlines() or ["it does not say why"]
    return lines[0] if len(lines[0]) <= _LONGEST_CAUSE else f"{lines[0][:_LONGEST_CAUSE]}…"


def _goodput(story: _Story, until: float) -> Goodput:
    return story.clock.goodput(3600 * story.usage.driver_hours(until), until)


def _with_gpus(span: WorkerSpan, config: Mapping[str, Any]) -> WorkerSpan:
    """Where it was not told whether workers had GPUs, those that the job insisted on count."""
    if span.gpus is not None:
        return span
    return span._replace(
        gpus=span.workers if _section(config, "scale").get("device") == "gpu" else 0
    )


def _story(run: RunDirectory, faults: list[str]) -> _Story:
    story = _Story()
    told = merge(_timed(run.events, False, faults), _timed(run.metrics, True, faults), key=_moment)
    broken: set[bool] = set()
    for now, measured, record in told:
        try:
            story.take(now, record, measured)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if measured not in broken:
                path = run.metrics if measured else run.events
                faults.append(f"{path} has a line that is none of its kind ({error}): delete it")
            broken.add(measured)
    return story


_Told = tuple[float, bool, dict[str, Any]]


def _moment(told: _Told) -> float:
    return told[0]


def _timed(path: Path, measured: bool, faults: list[str]) -> Iterator[_Told]:
    """The records of a file, each with its time; lines that are torn are passed over."""
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    record = orjson.loads(line)
                    yield _seconds(record["time"]), measured, record
                except (ValueError, KeyError, TypeError):
                    continue
    except FileNotFoundError:
        return
    except OSError as error:
        faults.append(f"{path} cannot be read: {error.strerror}")


def _config_path(run: RunDirectory) -> Path:
    """The config; of a run that holds runs, what takes its place."""
    others = (run.pipeline, run.path / "ablation.json")
    return next((path for path in (run.config, *others) if path.is_file()), run.config)


def _document(path: Path, faults: list[str]) -> dict[str, Any]:
    """A JSON object; empty where there is none, and told where it is broken."""
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        faults.append(f"{path} cannot be read ({error}): restore or delete it")
        return {}
    if isinstance(value, dict):
        return value
    faults.append(f"{path} is no JSON object: restore or delete it")
    return {}


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _tags(config: Mapping[str, Any]) -> dict[str, str]:
    tags = _section(config, "tracking").get("tags")
    return {str(k): str(v) for k, v in tags.items()} if isinstance(tags, dict) else {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
