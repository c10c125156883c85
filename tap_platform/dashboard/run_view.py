"""The page of a run: how it stands, what it took, what it sees as it learns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tap_platform.bill.page import Figure
from tap_platform.bill.words import ABSENT, hours, percent
from tap_platform.dashboard.advice import Failure, failures_of
from tap_platform.dashboard.collect import Collected, ListedRun, ListedSweep
from tap_platform.dashboard.lines import Line, lines_of
from tap_platform.dashboard.run_files import Picture, RunFiles
from tap_platform.dashboard.words import counted, moment, price, span
from tap_platform.report.tables import MEASURES
from tap_platform.runs.account import RunAccount


class Result(NamedTuple):
    """A measure on held-out data."""

    kind: str
    title: str
    value: str
    unit: str


@dataclass(frozen=True)
class RunView:
    """Everything on the page."""

    listed: ListedRun
    line: Line
    figures: Sequence[Figure]
    facts: Sequence[Figure]
    failure: Failure | None
    results: Sequence[Result]
    goodput: Mapping[str, float]
    pictures: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    """Rows: their titles, and of each picture its caption and address."""
    sweep: ListedSweep | None
    """That it is a trial of."""
    stages: Sequence[Line]
    """Of a pipeline."""
    report: str
    """Address of its own page, from the folder of all pages; empty where it has none."""


class RunViews:
    """Makes the pages of runs, one after the other."""

    def __init__(self, collected: Collected) -> None:
        self._collected = collected
        self._lines = {line.page: line for line in lines_of(collected)}
        self._failures = {each.run.slug: each for each in failures_of(collected)}

    def view(self, listed: ListedRun, files: RunFiles, folder: Path | None) -> RunView:
        """The page of a run.

        Args:
            listed: the run.
            files: what there is of it.
            folder: where pages are written to; None where they are served.
        """
        run = listed.account
        trial = self._collected.trial_of.get(listed.slug)
        line = self._lines[f"runs/{listed.slug}.html"]
        return RunView(
            listed=listed,
            line=line,
            figures=_figures(run, line),
            facts=list(_facts(run)),
            failure=self._failures.get(listed.slug),
            results=_results(run),
            goodput={} if run.holds_runs else run.goodput.shares,
            pictures=_rows(files.pictures),
            sweep=trial[0] if trial else None,
            stages=self._stages(listed),
            report=_report(listed, folder) if files.has_report else "",
        )

    def _stages(self, listed: ListedRun) -> list[Line]:
        run = listed.account
        own = [
            self._lines[f"runs/{other.slug}.html"]
            for other in self._collected.runs
            if (other.account.parent, other.account.project) == (run.name, run.project)
            and other.storage == listed.storage
        ]
        return sorted(own, key=lambda line: line.updated) if run.holds_runs else []


def _rows(pictures: Mapping[str, Sequence[Picture]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """A row for each picture that there is of several steps, and one for all others."""
    rows, others = [], []
    for name, own in pictures.items():
        title = name.replace("-", " ")
        told = [(_at(picture), picture.address) for picture in own]
        if len(own) > 1:
            rows.append((f"{title}, over time", told))
        else:
            others += [(f"{title}, {at}", address) for at, address in told]
    return [*rows, *([("pictures of one step", others)] if others else [])]


def _at(picture: Picture) -> str:
    return "of the whole run" if picture.step is None else f"step {picture.step:,}"


def _report(listed: ListedRun, folder: Path | None) -> str:
    """Written pages link to the run's own one where it lies, if that is on this computer."""
    if folder is None:
        return f"reports/{listed.slug}.html"
    if "://" in listed.storage:
        return ""
    page = Path(listed.account.path) / "report" / "index.html"
    return Path(os.path.relpath(page, folder)).as_posix()


def _figures(run: RunAccount, line: Line) -> list[Figure]:
    to_go = span(line.hours_to_go)
    ends = f"about {to_go} to go" if line.goes_on and line.hours_to_go is not None else line.done
    cost_to_go = f"about {price(line.cost_to_go)} to go" if line.cost_to_go else "to date"
    useful = run.goodput.shares.get("useful")
    goodput = Figure(
        "goodput",
        ABSENT if useful is None else f"{percent(useful)} %",
        "of machines' time in useful steps",
    )
    return [
        Figure("progress", f"{100 * line.progress:.0f} %", ends),
        Figure("machine hours", hours(run.hours), f"{hours(run.gpu_hours)} GPU-hours"),
        Figure("cost", price(line.cost), cost_to_go if line.cost else "nobody has told a price"),
        *([] if run.holds_runs else [goodput]),  # its stages have theirs
    ]


def _facts(run: RunAccount) -> Iterator[Figure]:
    yield Figure("owner", run.owner or ABSENT)
    for label, value in (
        ("team", run.team),
        ("cost centre", run.cost_centre),
        ("recipe", run.recipe),
    ):
        if value:
            yield Figure(label, value)
    yield Figure("started, UTC", moment(run.started))
    yield Figure("last sign of life, UTC", moment(run.updated))
    yield Figure("workers", f"{run.workers:,}")
    yield Figure("starts", counted(run.attempts, "start"), counted(run.failures, "failure"))
    if run.seconds_per_step is not None:
        yield Figure("pace", f"{run.seconds_per_step:.3g} s", "a step, as measured last")
    yield Figure("directory", run.path)


def _results(run: RunAccount) -> list[Result]:
    found = []
    for full, value in run.results.items():
        kind, _, name = full.partition("/")
        measure = MEASURES.get(name)
        told = {"val": "while training, best", "final": "final evaluation"}.get(kind)
        where = told or f"suite {kind.removeprefix('eval_')}"
        if measure is None:
            found.append(Result(where, name.replace("_", " "), f"{value:.4g}", ""))
        else:
            shown = f"{measure.factor * value:.1f}"
            found.append(Result(where, measure.title, shown, measure.unit))
    return found
