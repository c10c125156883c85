"""Run directories as runs leave them, written in a moment."""

import json
from datetime import UTC, datetime

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import write_json
from tap_platform.runs.status import RunStatus, write_status

BEGIN = 1795255200.0  # 2026-11-21T10:00:00 UTC


def iso(second):
    return datetime.fromtimestamp(BEGIN + second, UTC).isoformat(timespec="milliseconds")


def event(second, kind, **more):
    return {"time": iso(second), "kind": kind, "attempt": 1, "rank": None, **more}


def train(second, step, loss=1.0, pace=1.0, wait=0.1, **more):
    values = {
        "loss": loss,
        "speed/seconds_per_step": pace,
        "speed/data_wait_share": wait,
        **more,
    }
    return record(second, step, "train", values)


def record(second, step, kind, values):
    return {"step": step, "kind": kind, "attempt": 1, "time": iso(second), "values": values}


def append(path, *records):
    with path.open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in records)


def make_run(
    storage,
    name="run",
    *,
    project="tap",
    tags=None,
    state="finished",
    updated=100.0,
    events=(),
    metrics=(),
    config=None,
    owner="ada@here",
    **status,
):
    """A run whose driver is of another host, so that its own word stands."""
    run = RunDirectory.create(storage, project, name)
    told = {"step": 100, "max_steps": 100, "attempt": 1, "world_size": 2, "host": "elsewhere"}
    told |= {"state": state, "started": iso(0), "updated": iso(updated), **status}
    write_status(run.status, RunStatus(**told))
    write_json(run.config, {"tracking": {"tags": tags or {}}, **(config or {})})
    write_json(run.provenance, {"owner": owner})
    append(run.events, *events)
    append(run.metrics, *metrics)
    return run


def priced_run(storage, name="run", price=36.0, gpus=2, hours=1.0, start=0.0, **more):
    """A run of so many hours; a tenth of them is start-up, and all else is steps that stand."""
    end = start + 3600 * hours
    first = start + 360 * hours
    events = [
        event(start, "started", workers=2, price_per_hour=price, currency="USD"),
        event(start + 60, "training", workers=2, gpus=gpus, goes_on_from=None),
        event(end, "finished"),
    ]
    pace = (end - first) / 100
    metrics = [train(first + pace * step, step, pace=pace, wait=0.0) for step in range(10, 101, 10)]
    more = {"updated": end, "events": events, "metrics": metrics, **more}
    return make_run(storage, name, **more)
