"""Runs and their states, for people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tap_platform.places.look import Found
from tap_platform.places.run_files import run_files
from tap_platform.places.show_sweep import print_trials, seen_sweep, sweep_facts
from tap_platform.places.states import RunState
from tap_platform.runs.alive import ALIVE
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events

_SHOWN_FOR = timedelta(days=1)
_LAST_EVENTS = 8
"""A sign of life of a sweep's driver, every minute."""
_COLOURS = {
    "running": "green",
    "succeeded": "green",
    "failed": "red",
    "lost": "red",
    "stopped": "yellow",
    "unknown": "yellow",
}


def recent(states: Sequence[RunState]) -> list[RunState]:
    """Those that go on, or ended within a day; of the trials of sweeps, those that go on."""
    return [
        state
        for state in states
        if not state.ended or (state.place.sweep is None and _age(state) < _SHOWN_FOR)
    ]


def state_record(state: RunState) -> str:
    """A state as a line of JSON."""
    status = state.status
    return json.dumps(
        {
            "run": state.place.run,
            "project": state.place.project,
            "kind": "sweep" if state.place.is_sweep else "run",
            "sweep": state.place.sweep,
            "state": state.state,
            "why": state.why,
            "place": state.place.place,
            "since": state.place.since,
            "step": status and status.step,
            "max_steps": status and status.max_steps,
            "run_directory": state.place.run_directory,
            "by": state.place.by,
        }
    )


def print_states(
    states: Sequence[RunState], left_out: int = 0, console: Console | None = None
) -> None:
    """Print a table of runs, and under it why some of them are where they are."""
    console = console or Console()
    if states:
        console.print(_table(states))
    for state in states:
        _print_why(state, console)
    if left_out:
        console.print(f"{left_out} more, trials that have ended or runs of over a day ago: --all")
    elif not states:
        console.print("no runs")


def _table(states: Sequence[RunState]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state", "step", "place", "since", "by"):
        # A name that is cut cannot be copied.
        table.add_column(column, overflow="fold", no_wrap=column == "run")
    for state in sorted(states, key=lambda each: (each.ended, each.place.run)):
        colour = _COLOURS.get(state.state, "default")
        table.add_row(
            # What others call things may look like markup.
            escape(state.place.run),
            f"[{colour}]{state.state}[/]",
            _progress(state),
            escape(state.place.place),
            _ago(state),
            escape(state.place.by),
        )
    return table


def _progress(state: RunState) -> str:
    """Steps, or trials, done of how many."""
    sweep = seen_sweep(state.place)
    return state.progress if sweep is None else sweep.progress


def _print_why(state: RunState, console: Console) -> None:
    """Why a run is where it is; of a sweep, what has come out too."""
    sweep = seen_sweep(state.place)
    best = f"the best is {sweep.best_in_words}" if sweep and sweep.best else ""
    told = "; ".join(each for each in (state.why.partition("\n")[0], best) if each)
    if told:
        name = f"[bold]{escape(state.place.run)}[/]"
        console.print(f"{name}: {escape(told)}", soft_wrap=True, highlight=False)


def print_run(found: Found, console: Console | None = None) -> None:
    """Print all that is known of a run.

    Raises:
        ValueError: if nothing is.
    """
    console = console or Console()
    state = found.state()
    _print_facts(_facts(found, state), console)
    try:
        directory = run_files(state.place, found.profile)
    except (ValueError, OSError) as error:
        _print_facts({"files": str(error)}, console)
        return
    if directory.is_sweep:
        _print_facts(sweep_facts(directory), console)
        print_trials(directory, console)
    _print_facts({"files": str(directory.path)}, console)
    _print_events(directory, console)


def _print_facts(facts: Mapping[str, str], console: Console) -> None:
    for name, text in facts.items():
        if text:
            console.print(f"{name:<15}{text}", soft_wrap=True, highlight=False, markup=False)


def _facts(found: Found, state: RunState) -> dict[str, str]:
    place, record, status = state.place, found.record, state.status
    code = record.code if record else None
    revision = f"{code.revision}{' with changes' if code.changed else ''}" if code else ""
    return {
        "sweep" if place.is_sweep else "run": found.run,
        "trial of": place.sweep or "",
        "project": place.project,
        "state": state.state + (f" since {place.since[:19]}" if place.since else ""),
        "why": state.why,
        "step": "" if place.is_sweep else state.progress,
        "attempt": str(status.attempt) if status and status.attempt else "",
        "place": found.place.name,
        "namespace": getattr(found.profile, "namespace", ""),
        "directory": place.run_directory or "",
        "mirror": place.mirror or "",
        "kind": record.kind if record else "",
        "command": shlex.join(record.command) if record else "",
        "code": revision,
        "submitted": f"{record.submitted[:19]} by {record.by}" if record else place.by,
        "goes on by": place.again if state.state == "failed" else "",
    }


def _print_events(directory: RunDirectory, console: Console) -> None:
    events = [e for e in read_events(directory.events) if e.get("kind") != ALIVE]
    for event in events[-_LAST_EVENTS:]:
        told = str(event.get("reason") or event.get("message") or "").partition("\n")[0]
        line = f"  {event['time'][:19]}  attempt {event['attempt']}  {event['kind']}  {told}"
        console.print(line.rstrip(), soft_wrap=True, highlight=False, markup=False)


def _age(state: RunState) -> timedelta:
    """How long ago it came to this; a moment ago if nobody knows."""
    when = state.place.since or (state.status.updated if state.status else None)
    if when is None:
        return timedelta()
    return datetime.now(UTC) - datetime.fromisoformat(when)


def _ago(state: RunState) -> str:
    if state.place.since is None and state.status is None:
        return ""
    minutes = int(_age(state).total_seconds() // 60)
    if minutes < 60:
        return f"{max(minutes, 0)} min"
    return f"{minutes // 60} h" if minutes < 60 * 48 else f"{minutes // (60 * 24)} d"
