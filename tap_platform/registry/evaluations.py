"""How good a version was measured to be, and on what."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any, NamedTuple

from tap_platform.registry.versions import Registry, Version
from tap_platform.runs.checkpoints import committed, step_of
from tap_platform.runs.events import read_events
from tap_platform.runs.files import read_json
from tap_platform.runs.metrics import MetricsRecord, read_metrics


class Score(NamedTuple):
    """One measure of a version."""

    value: float
    data: str | None
    """What it was measured on, and how; None where nobody knows."""


def score_of(version: Version, suite: str, metric: str, registry: Registry) -> Score | None:
    """A measure of a version at its step; None if it has not been measured.

    It is read from the run directory, or, where that is gone, from MLflow.

    Raises:
        ValueError: The suite has been measured, and has no such metric.
    """
    if version.run.status.is_file():
        return _in_directory(version, suite, metric)
    if version.mlflow_run is None:
        return None
    history = registry.client.get_metric_history(version.mlflow_run, f"{kind_of(suite)}/{metric}")
    found = [each.value for each in history if each.step == version.step]
    return Score(found[-1], None) if found and math.isfinite(found[-1]) else None


def kind_of(suite: str) -> str:
    """The kind of the records of a suite."""
    return suite if suite == "final" else f"eval_{suite}"


def how_to_measure(version: Version, suite: str) -> str:
    """The command that makes an evaluation, of the newest checkpoint as `tap eval` does."""
    newest = max(map(step_of, committed(version.checkpoint.parent)), default=version.step)
    if version.step < newest:
        return f"tap eval measures a run's newest checkpoint, which is now that of step {newest}"
    run = version.run.path
    name = "prompts" if suite == "final" else suite
    out = shlex.quote(str(run.with_name(f"{run.name}-evaluation")))
    command = f"tap eval {shlex.quote(str(run))} --suite {name} --out {out}"
    if suite == "final":
        return f"its run made no final table; {command}, and promote it by --suite {name}"
    return f"make it: {command}"


def _in_directory(version: Version, suite: str, metric: str) -> Score | None:
    kind = kind_of(suite)
    records = [
        record
        for record in read_metrics(version.run.metrics)
        if (record.kind, record.step) == (kind, version.step)
    ]
    if not records:
        return None
    value = records[-1].values.get(metric)
    if value is None:
        known = ", ".join(sorted(records[-1].values))
        raise ValueError(f"{suite} of {version.title} has no {metric!r}: there are {known}")
    return Score(value, _data(version, suite, records[-1])) if math.isfinite(value) else None


def _data(version: Version, suite: str, record: MetricsRecord) -> str | None:
    """What a suite was run on: the event that follows its record tells."""
    if suite == "final":
        path = version.run.provenance
        made_of: dict[str, Any] = read_json(path) if path.is_file() else {}
        data = made_of.get("data")
        return json.dumps(sorted(data.values())) if data else None
    for event in read_events(version.run.events, "evaluated"):
        if event["suite"] == suite and event["time"] >= record.time:
            return f"{event['protocol']}, {event['data']}"
    return None
