"""The runs of a comparison, and which of them differ in their seeds alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from tap_platform.report.records import RunRecords
from tap_platform.runs.account import RunAccount
from tap_platform.runs.accounting import account_of
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.tracking.base import flatten

SEEDS = ("seed", "data.seed")
"""Keys that make another run of the same experiment."""
BESIDE = ("name", "project", "storage", "tracking", "mirror", "alerts")
"""Keys and sections that change nothing of what is learned."""
_MADE_OF = {"git_revision": "code", "data_hash": "data", "python": "python"}


@dataclass(frozen=True)
class ComparedRun:
    """One run, read once."""

    records: RunRecords
    account: RunAccount
    settings: Mapping[str, Any]
    """What may make a difference, by dotted key: the config, the code, the data, packages."""
    title: str
    """Its name; with its project, where another run of the comparison has that name too."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What of it could not be read, for people."""
        return tuple(dict.fromkeys((*self.records.faults, *self.account.faults)))

    @property
    def experiment(self) -> str:
        """Equal for runs that differ in their seeds alone."""
        return repr({key: self.settings[key] for key in self.settings if key not in SEEDS})

    @classmethod
    def read(cls, run: RunDirectory) -> ComparedRun:
        """Read a run.

        Raises:
            ValueError: its status is broken.
        """
        records = RunRecords.read(run)
        return cls(records, account_of(run), dict(_settings(records)), run.name)


@dataclass(frozen=True)
class Column:
    """Runs that differ in their seeds alone, one at least."""

    letter: str
    """By which tables call it where there is little room."""
    title: str
    runs: tuple[ComparedRun, ...]


def read_runs(names: Sequence[str], storage: str) -> list[ComparedRun]:
    """The runs of some names.

    Args:
        names: runs' names or directories, two at least; of a mirror `PROJECT/RUN`.
        storage: a storage folder, or a mirror's URL.

    Raises:
        ValueError: they are fewer than two, one is there twice, or one is not found.
        OSError: the store does not answer.
    """
    found = [_find(name, storage) for name in names]
    paths = Counter(run.path.resolve() for run in found)
    if twice := [path.name for path, count in paths.items() if count > 1]:
        raise ValueError(f"{', '.join(twice)} is there twice: name each run once")
    if len(found) < 2:
        raise ValueError("one run has nothing to be compared with: name two or more")
    alike = Counter(run.name for run in found)
    return [
        replace(ComparedRun.read(run), title=f"{run.project}/{run.name}")
        if alike[run.name] > 1
        else ComparedRun.read(run)
        for run in found
    ]


def columns_of(runs: Sequence[ComparedRun]) -> list[Column]:
    """Runs of one experiment in one column, in the order in which they were named."""
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(run.experiment, []).append(run)
    return [
        Column(_letter(place), _title(own), tuple(own)) for place, own in enumerate(groups.values())
    ]


def _letter(place: int) -> str:
    return ascii_uppercase[place] if place < len(ascii_uppercase) else str(place + 1)


def _title(runs: Sequence[ComparedRun]) -> str:
    first = runs[0].title
    return first if len(runs) == 1 else f"{first} and {len(runs) - 1} more of other seeds"


def _find(name: str, storage: str) -> RunDirectory:
    if "://" not in storage:
        return RunDirectory.find(storage, name)
    from tap_platform.runs.mirrored import fetch_run

    project, slash, run = name.partition("/")
    if not slash:
        raise ValueError(f"{name}: a run of a mirror is named by its project too, PROJECT/{name}")
    return fetch_run(storage, project, run)


def _settings(records: RunRecords) -> Iterator[tuple[str, Any]]:
    for key, value in flatten(records.config):
        if key not in BESIDE and key.partition(".")[0] not in BESIDE:
            yield key, value
    made_of = records.provenance
    for key, title in _MADE_OF.items():
        if key in made_of:
            yield title, made_of[key]
    packages = made_of.get("packages")
    for package, version in (packages if isinstance(packages, dict) else {}).items():
        yield f"package {package}", version
