"""What a sweep would do, before it does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from rich.console import Console

from tap_platform.config.sweep import SweepConfig, load_sweep
from tap_platform.sweeps.prices import prices_of
from tap_platform.sweeps.story import told_values
from tap_platform.sweeps.suggest import trials_of
from tap_platform.sweeps.trial_jobs import check_jobs, known_values, trial_job

SHOWN = 10


def print_outline(
    spec: Path, overrides: Sequence[str], place: str | None, console: Console | None = None
) -> None:
    """Check the sweep of a file, and print how many trials it has, what they cost and try.

    Raises:
        ValueError: if the file or a value of its space is refused.
    """
    console = console or Console()
    config = load_sweep(spec, overrides, place)
    base = check_jobs(config)
    prices_of(config, base)
    total = trials_of(config)
    told = "trials until its budget is used up" if total is None else f"{total} trials"
    most = "" if total is None else f", {_steps(config, total)} steps at most"
    console.print(
        f"[bold]{config.name}[/]: {told}{most}, by {config.search.type} search and scheduler"
        f" {config.scheduler.type}",
        highlight=False,
        soft_wrap=True,
    )
    if config.search.type == "optuna":
        console.print("what it tries, it learns as it goes; for example:")
    for number, values in enumerate(islice(known_values(config), min(SHOWN, total or SHOWN))):
        console.print(f"t{number:04}  {told_values(values)}", highlight=False, soft_wrap=True)


def _steps(config: SweepConfig, total: int) -> str:
    """Optimizer steps of all trials, none stopped."""
    known = islice(known_values(config), min(total, 1000))
    steps = [trial_job(config, values).training.max_steps for values in known]
    return f"{round(sum(steps) / len(steps) * total):,}"
