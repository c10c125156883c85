"""What a person is told of a sweep while it goes on, and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tap_platform.config.sweep import SweepConfig
from tap_platform.runs.files import write_atomic
from tap_platform.sweeps.conductor import Conductor
from tap_platform.sweeps.directory import SweepDirectory
from tap_platform.sweeps.records import TrialRecord, ranked

ROWS = 10


def tell(record: TrialRecord, config: SweepConfig, conductor: Conductor, console: Console) -> None:
    """One line for a trial that is over, or changes."""
    if record.exploit is not None:
        console.print(
            f"{record.trial} goes on from step {record.exploit.step} of {record.exploit.trial}:"
            f" {told_values(record.values)}",
            highlight=False,
            soft_wrap=True,
        )
    if not record.is_over:
        return
    of = "" if conductor.total is None else f"/{conductor.total}"
    value = "" if record.objective is None else f"  {_measured(record, config)}"
    why = f"  {escape(record.reason)}" if record.reason else ""
    color = {"failed": "red", "stopped": "yellow"}.get(record.state, "green")
    console.print(
        f"{conductor.over}{of}  {record.trial} [{color}]{record.state}[/]{value}"
        f"  {told_values(record.values)}{why}",
        highlight=False,
        soft_wrap=True,
    )


def print_best(
    config: SweepConfig,
    sweep: SweepDirectory,
    conductor: Conductor,
    why_over: str,
    console: Console,
) -> None:
    """The best trials, what it took, and where everything lies."""
    ranked = ranking(config, conductor)
    if why_over:
        console.print(f"[yellow]the sweep has ended:[/] {why_over}", highlight=False)
    console.print(_table(config, sweep, ranked[:ROWS]))
    write_atomic(sweep.report / "trials.md", _markdown(config, ranked).encode())
    if best := conductor.best:
        console.print(f"best run       {sweep.run(best.run).path}", soft_wrap=True, highlight=False)
    console.print(f"sweep          {sweep.path}", soft_wrap=True, highlight=False)


def ranking(config: SweepConfig, conductor: Conductor) -> list[TrialRecord]:
    """All trials, the best first; those that failed or were never measured last."""
    return ranked(conductor.trials.values(), config.objective.mode)


def told_values(values: dict[str, Any]) -> str:
    """Values in a line, by their keys."""
    return "  ".join(f"{key}={_short(value)}" for key, value in values.items())


def _measured(record: TrialRecord, config: SweepConfig) -> str:
    return f"{config.objective.metric} {record.objective:.4g} at step {record.step}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(record: TrialRecord, config: SweepConfig) -> list[str]:
    objective = "" if record.objective is None else f"{record.objective:.4g}"
    values = [_short(record.values[key]) if key in record.values else "" for key in config.space]
    return [record.trial, record.state, objective, str(record.step), *values]


def short_keys(keys: Sequence[str]) -> list[str]:
    """The last parts of each dotted key, as many as tell it from all others."""

    def end(key: str, parts: int) -> str:
        return ".".join(key.split(".")[-parts:])

    return [
        next(
            end(key, parts)
            for parts in range(1, key.count(".") + 2)
            if sum(end(other, parts) == end(key, parts) for other in keys) == 1
        )
        for key in keys
    ]


def _heads(config: SweepConfig) -> list[str]:
    return ["trial", "state", config.objective.metric, "step", *config.space]


def _table(config: SweepConfig, sweep: SweepDirectory, ranked: list[TrialRecord]) -> Table:
    heads = ["trial", "state", config.objective.metric, "step", *short_keys(list(config.space))]
    table = Table(*heads, title=sweep.name)
    for record in ranked:
        table.add_row(*_row(record, config))
    return table


def _markdown(config: SweepConfig, ranked: list[TrialRecord]) -> str:
    heads = _heads(config)
    rows = [heads, ["---"] * len(heads), *(_row(record, config) for record in ranked)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
