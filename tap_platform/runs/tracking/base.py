"""What a tracker must be able to do, so that a follower can keep it up with a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tap_platform.runs.metrics import MetricsRecord
from tap_platform.runs.status import State
from tap_platform.runs.tables import TableFile
from tap_platform.runs.tracking.shown import Shown


class TrackerRefusedError(RuntimeError):
    """A tracker did not take what was sent; the message says why, and what to do."""


class Session(NamedTuple):
    """A tracked run, open for records."""

    run_id: str
    """The tracker's own name of the run, the same for its whole life."""
    next_step: int | None
    """The first step that the tracker lacks, when earlier sends are no proof of what it holds: it
    keeps records in memory for a while, or is a new store. Everything from this step on is sent
    again. None: it holds all that it ever took."""


class Picture(NamedTuple):
    """A picture of a step."""

    path: Path
    name: str
    """What it shows, the same for all steps."""
    step: int


class DataSet(NamedTuple):
    """What a run learned from."""

    name: str
    """The last part of its folder, for people."""
    source: str
    """Folder or URL."""
    sha256: str
    """Of the index of its training samples, in hexadecimal."""


class Tracker(Protocol):
    """Shows one run. Every method may raise; what was being sent is then sent again.

    Sending the same thing twice must show it once.
    """

    name: str
    """The tracker's word in a config; names its cursor file."""

    def start(self, shown: Shown, run_id: str | None) -> Session:
        """Open the tracked run, marked as running: the one of that id, or of that name, or new."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Show settings by dotted name; JSON values. A setting may change between attempts."""

    def log_metrics(self, records: Sequence[MetricsRecord]) -> None:
        """Show measures at their steps and times."""

    def log_picture(self, picture: Picture) -> None:
        """Show a picture of a step."""

    def log_table(self, name: str, step: int, table: TableFile) -> None:
        """Show a table of a step."""

    def log_file(self, path: Path, name: str) -> None:
        """Keep a copy of a file under a name with slashes; a newer one replaces it."""

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as a file of that name; a newer one replaces it."""

    def log_data(self, data: Sequence[DataSet]) -> None:
        """Show what the run learned from, so that all runs of a data set are found."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Label the run."""

    def describe(self, text: str) -> None:
        """Show Markdown at the head of the run."""

    def finish(self, state: State, time: str) -> None:
        """Close the tracked run with the state that it ended in, and when (UTC, ISO 8601)."""

    def close(self) -> None:
        """Let go of the tracked run without an end; does nothing if none is open."""

    def abandon(self) -> None:
        """Let go of all that would hold up the end of this process, while another call waits."""

    def advice(self, error: Exception) -> str | None:
        """What a person can do about an error that a method raised; None if nobody knows."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config by dotted name; lists and empty mappings are leaves."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_text(value: Any) -> str:
    """A setting as people write it in YAML: strings bare, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
