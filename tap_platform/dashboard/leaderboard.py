"""Models ranked by what evaluation suites measured of them, beside the papers' rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tap_platform.bill.words import ABSENT
from tap_platform.dashboard.collect import Collected, ListedRun
from tap_platform.evaluation.suites.papers import PAPER_ROWS, PaperRow
from tap_platform.report.tables import MEASURES, Measure
from tap_platform.runs.account import RunAccount

MOST_ROWS = 20
"""Of our own runs on one board."""
_SUITES = "eval_"
_FINAL = "final"
_TITLES = {
    "instances": "Masks from detector boxes",
    "classification": "Naming regions",
    "prompts": "Masks from a box or a point",
    "captions": "Describing regions",
}


class Entry(NamedTuple):
    """One model on a board."""

    rank: int | None
    """From 1; None of a model without the first measure."""
    model: str
    page: str
    """Of one of our runs; empty for a paper's."""
    data: str
    cells: list[str]
    is_paper: bool


@dataclass(frozen=True)
class Board:
    """Models that were measured in the same way."""

    title: str
    measures: list[Measure]
    """The first one ranks."""
    entries: list[Entry]
    suite: str
    """Of `tap eval`; empty of final evaluations."""
    left_out: int
    """Runs that were too many to be shown, the worst ones."""
    note: str = ""

    @property
    def has_ours(self) -> bool:
        """Whether a run of ours is on it."""
        return any(not entry.is_paper for entry in self.entries)


class _Score(NamedTuple):
    """A row before it is ranked."""

    model: str
    page: str
    data: str
    values: Mapping[str, float]
    """In the unit that is shown, by the measure's title."""
    is_paper: bool


def boards_of(collected: Collected) -> list[Board]:
    """One board for each suite and protocol that was run, then one for each project's final look.

    Papers' rows of protocols that nobody has run are shown too: they are what to reach.
    """
    scores: defaultdict[tuple[str, str], list[_Score]] = defaultdict(list)
    for run in collected.runs:
        for suite, values in _suites(run.account).items():
            told = _evaluated(run.account).get(suite, {})
            protocol, data = str(told.get("protocol", "")), str(told.get("data", ABSENT))
            scores[suite, protocol].append(_ours(run, values, data))
    for row in PAPER_ROWS:
        scores[row.suite, row.protocol].append(_of_paper(row))
    boards = [
        _board(_title(suite, protocol), suite, rows, _note(rows))
        for (suite, protocol), rows in scores.items()
    ]
    boards += _final_boards(collected)
    return sorted(boards, key=lambda board: not board.has_ours)


def _final_boards(collected: Collected) -> list[Board]:
    projects: defaultdict[str, list[_Score]] = defaultdict(list)
    for run in collected.runs:
        values = _of_kind(run.account.results, _FINAL)
        if values:
            projects[run.account.project].append(_ours(run, values, run.account.recipe or ABSENT))
    note = "Held-out regions of each run's own data: rows compare where the data is the same."
    return [
        _board(f"Final evaluation: {project}", "", rows, note)
        for project, rows in sorted(projects.items())
    ]


def _note(rows: Sequence[_Score]) -> str:
    if len({row.is_paper for row in rows}) == 1:
        return ""
    return "A rank among the papers means something where the data is theirs."


def _title(suite: str, protocol: str) -> str:
    told = protocol or _TITLES.get(suite, suite)
    return f"{told[0].upper()}{told[1:]}"


def _board(title: str, suite: str, rows: Sequence[_Score], note: str = "") -> Board:
    titles = dict.fromkeys(title for row in rows for title in row.values)
    measures = [each for each in MEASURES.values() if each.title in titles]
    first = measures[0].title if measures else ""
    ranked = sorted(rows, key=lambda row: -row.values.get(first, float("-inf")))
    entries, ours = [], 0
    for place, row in enumerate(ranked, 1):
        ours += not row.is_paper
        if row.is_paper or ours <= MOST_ROWS:
            entries.append(_entry(row, place, measures, first))
    return Board(title, measures, entries, suite, max(0, ours - MOST_ROWS), note)


def _entry(row: _Score, place: int, measures: Sequence[Measure], first: str) -> Entry:
    values = [row.values.get(measure.title) for measure in measures]
    cells = [ABSENT if value is None else f"{value:.1f}" for value in values]
    rank = place if first in row.values else None
    return Entry(rank, row.model, row.page, row.data, cells, row.is_paper)


def _ours(run: ListedRun, values: Mapping[str, float], data: str) -> _Score:
    shown = {
        MEASURES[name].title: MEASURES[name].factor * value
        for name, value in values.items()
        if name in MEASURES
    }
    return _Score(run.account.name, f"runs/{run.slug}.html", data, shown, is_paper=False)


def _of_paper(row: PaperRow) -> _Score:
    return _Score(row.model, "", row.data, row.metrics, is_paper=True)


def _suites(run: RunAccount) -> dict[str, dict[str, float]]:
    kinds = dict.fromkeys(name.partition("/")[0] for name in run.results)
    return {
        kind.removeprefix(_SUITES): _of_kind(run.results, kind)
        for kind in kinds
        if kind.startswith(_SUITES)
    }


def _of_kind(results: Mapping[str, float], kind: str) -> dict[str, float]:
    head = f"{kind}/"
    return {k.removeprefix(head): value for k, value in results.items() if k.startswith(head)}


def _evaluated(run: RunAccount) -> dict[str, dict[str, Any]]:
    """What the newest evaluation by each suite was of, by suite."""
    found: dict[str, dict[str, Any]] = {}
    with suppress(OSError), (Path(run.path) / "events.jsonl").open("rb") as file:
        for line in file:
            if b'"evaluated"' not in line:
                continue
            with suppress(ValueError, KeyError, TypeError):
                event = orjson.loads(line)
                found[str(event["suite"])] = event
    return found
