"""A place: where a run may run, and what everything else needs to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, Protocol

from tap_platform.config.job import JobConfig
from tap_platform.runs.directory import SWEEPS

Kind = Literal["train", "evaluate", "sweep", "data"]
State = Literal[
    "queued",
    "starting",
    "running",
    "stopping",
    "succeeded",
    "failed",
    "stopped",
    "gone",
    "unknown",
]
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "stopped", "gone"})
"""States of a run that will do no more there."""


@dataclass(frozen=True)
class CodePackage:
    """The caller's code, as a run takes it along."""

    zip: bytes = field(repr=False)
    """The files, from the root of the repository."""
    files: int
    """How many they are."""
    revision: str | None
    """The commit that they belong to; None before the first."""
    changed: tuple[str, ...]
    """Tracked files that differ from that commit; the changes are in the package."""


@dataclass(frozen=True)
class Submission:
    """A run as it is handed to a place."""

    run: str
    """Its name, its identity for life."""
    project: str
    """The project that it belongs to."""
    kind: Kind
    """What it does."""
    command: tuple[str, ...]
    """The program and its arguments, as they are called there. Files stand in them by their path:
    that of `Place.files` and their name."""
    files: Mapping[str, str]
    """Name to text: what the command reads, such as `job.json`."""
    job: JobConfig | None
    """The resolved job, with the storage of the place; None where there is none to train."""
    code: CodePackage | None
    """The caller's code; None takes what the place has."""
    by: str
    """Who submits: `user@host`."""

    @property
    def lies(self) -> str:
        """Where its directory lies in a storage, and the copies of it in a mirror."""
        return lies(self.kind, self.project, self.run)


def lies(kind: Kind, project: str, run: str) -> str:
    """Where a run's directory lies in a storage; sweeps have a folder of their own."""
    return f"{project}/{SWEEPS}/{run}" if kind == "sweep" else f"{project}/{run}"


class PlaceState(NamedTuple):
    """What a place says of a run. How far it is, the run directory says."""

    run: str
    """Its name."""
    project: str
    """Its project."""
    state: State
    """`gone`: the place knows nothing of it (any more); `unknown`: it cannot be asked."""
    why: str
    """For people: what it waits for, or how it failed, and what helps; empty if all is said."""
    since: str | None
    """Since when, UTC in ISO 8601."""
    place: str
    """The place's name."""
    run_directory: str | None
    """As the place sees it."""
    mirror: str | None
    """URL that its small files are copied to."""
    by: str
    """Who submitted it; empty if nobody knows."""
    submitted: str | None = None
    """When it was submitted last, UTC in ISO 8601: an end that was written before is of an earlier
    attempt. None if nobody knows."""
    sweep: str | None = None
    """The sweep that it is a trial of, as far as that is seen from here."""
    again: str = ""
    """The command that goes on with it, where that is not `tap resubmit`."""

    @property
    def is_sweep(self) -> bool:
        """Whether it is a sweep, and not a run."""
        directory = PurePosixPath(self.run_directory or "")
        return directory.parent.name == SWEEPS

    @property
    def lies(self) -> str:
        """Where its directory lies in its storage."""
        return lies("sweep" if self.is_sweep else "train", self.project, self.run)

    @property
    def ended(self) -> bool:
        """Whether it will do no more there."""
        return self.state in ENDED


class Place(Protocol):
    """Where runs run. All methods raise `ValueError` where the place refuses or is not reached."""

    name: str
    """The profile's, or an address."""
    files: str
    """Folder in which a command finds its files, such as `/etc/tap`; `.` for where it is called."""

    def render(self, submission: Submission) -> str:
        """What would be sent, as YAML; nothing is sent or asked.

        Raises:
            ValueError: if the place could not take it, as far as that can be told from here.
        """
        ...

    def submit(self, submission: Submission) -> None:
        """Take a run. On an error, what was made for it is removed.

        Raises:
            ValueError: if it is refused, or the place has a run of that name.
        """
        ...

    def state(self, run: str) -> PlaceState:
        """How a run stands; `gone` if the place does not know it."""
        ...

    def states(self) -> list[PlaceState]:
        """All runs that the place knows."""
        ...

    def logs(self, run: str, follow: bool, rank: int | None) -> Iterator[str]:
        """The lines, without their ends, that a run printed.

        Args:
            run: its name.
            follow: whether to wait for more until it ends.
            rank: of one worker; None is the driver.

        Raises:
            ValueError: if the place has no such log (any more).
        """
        ...

    def stop(self, run: str, grace: float) -> None:
        """Ask a run to write a checkpoint and end; return at once.

        Args:
            run: its name.
            grace: seconds that it has for it; 0 ends it without.
        """
        ...
