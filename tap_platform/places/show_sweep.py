"""A sweep for people: its trials, the best of them, and what of its budget is used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tap_platform.places.place import PlaceState
from tap_platform.places.sweep_log import values_in_words
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import read_status
from tap_platform.runs.sweep_account import SweepAccount, Trial, sweep_account

_ROWS = 10


def seen_sweep(state: PlaceState) -> SweepAccount | None:
    """How the trials of a sweep stand; None of a run, or where its directory is not seen."""
    directory = Path(state.run_directory or "")
    if not state.is_sweep or not (directory / "trials.jsonl").is_file():
        return None
    return sweep_account(directory)


def sweep_facts(sweep: RunDirectory) -> dict[str, str]:
    """What is told of a sweep, by name."""
    account = sweep_account(sweep.path)
    best = account.best
    page = sweep.report / "trials.md"
    counts = f" ({account.counts})" if account.counts else ""
    return {
        "trials": f"{account.progress} are over{counts}",
        "best": account.best_in_words,
        "its values": values_in_words(best.values) if best else "",
        "budget": _budget(sweep),
        "all trials": str(page) if page.is_file() else "",
        "faults": "; ".join(account.faults),
    }


def print_trials(sweep: RunDirectory, console: Console) -> None:
    """Print the best trials, and those that train now."""
    account = sweep_account(sweep.path)
    table = Table("trial", "state", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text(account.metric), justify="right")
    table.add_column("step", justify="right")
    table.add_column("values", overflow="fold")
    shown = account.trials[:_ROWS]
    shown += tuple(each for each in account.trials[_ROWS:] if each.state == "running")
    for trial in shown:
        table.add_row(*map(Text, _row(trial)))
    if shown:
        console.print(table)
    if left := len(account.trials) - len(shown):
        console.print(f"{left:,} more trials", highlight=False)


def _row(trial: Trial) -> tuple[str, ...]:
    objective = "" if trial.objective is None else f"{trial.objective:.4g}"
    reason = trial.reason.partition("\n")[0] if trial.state == "failed" else ""
    words = "  ".join(filter(None, (values_in_words(trial.values), reason)))
    return trial.run, trial.state, objective, f"{trial.step:,}", words


def _budget(sweep: RunDirectory) -> str:
    """`hours 0.82 of 2, gpu_hours 1.60`, as the sweep itself counts; or why that is not known."""
    try:
        parts = [
            f"{name} {used:.2f}" + (f" of {most:g}" if most is not None else "")
            for name, used, most in _spent(sweep)
            if used or most is not None
        ]
    except (ValueError, OSError) as error:
        first = str(error).partition("\n")[0]
        return f"not known: {first}"
    return ", ".join(parts)


def _spent(sweep: RunDirectory) -> Iterator[tuple[str, float, float | None]]:
    """What was used of what a sweep may take, by the keys of its budget.

    Raises:
        ValueError: if its files are broken, or its profile is not here.
    """
    from tap_platform.sweeps.budget import Spending
    from tap_platform.sweeps.directory import SweepDirectory
    from tap_platform.sweeps.prices import prices_of
    from tap_platform.sweeps.records import newest_records
    from tap_platform.sweeps.trial_jobs import trial_job

    directory = SweepDirectory(sweep.path)
    config = directory.read_config()
    status = read_status(sweep.status)
    now = datetime.fromisoformat(status.updated).timestamp() if status.ended else time.time()
    spending = Spending(config, sweep, prices_of(config, trial_job(config, {})))
    yield "hours", spending.hours(now), config.budget.hours
    running = set()
    for record in newest_records(directory.trials):
        run = directory.run(record.run)
        if run.path.is_dir():  # A copy of a mirror may lie alone.
            with suppress(ValueError):  # Refused: it never trained.
                spending.add(run, trial_job(config, record.values))
        if record.state == "running" and not status.ended:
            running.add(run)
    yield "gpu_hours", spending.gpu_hours(now, running), config.budget.gpu_hours
    yield "money", spending.money(now, running), config.budget.money
