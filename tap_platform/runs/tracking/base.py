"""What a tracker must be able to do, so that a follower can keep it up with a run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.metrics import MetricsRecord
from tap_platform.runs.status import State


class Session(NamedTuple):
    """A tracked run, open for records."""

    run_id: str
    """The tracker's own name of the run, the same for its whole life."""
    next_step: int | None
    """The first step that the tracker lacks, when earlier sends are no proof of what it holds: it
    keeps records in memory for a while, or is a new store. Everything from this step on is sent
    again. None: it holds all that it ever took."""


class Tracker(Protocol):
    """Shows one run. Every method may raise; what was being sent is then sent again.

    Sending the same thing twice must show it once.
    """

    name: str
    """The tracker's word in a config; names its cursor file."""

    def start(self, run: RunDirectory, run_id: str | None) -> Session:
        """Open the tracked run, marked as running: the one of that id, or of that name, or new."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Show settings by dotted name; JSON values. A setting may change between attempts."""

    def log_metrics(self, records: Sequence[MetricsRecord]) -> None:
        """Show measures at their steps and times."""

    def log_picture(self, path: Path, step: int | None) -> None:
        """Show a picture of a step, or of the whole run."""

    def log_file(self, path: Path) -> None:
        """Keep a copy of a file of the run directory; a newer one replaces it."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Label the run."""

    def finish(self, state: State, time: str) -> None:
        """Close the tracked run with the state that it ended in, and when (UTC, ISO 8601)."""

    def close(self) -> None:
        """Let go of the tracked run without an end; does nothing if none is open."""

    def abandon(self) -> None:
        """Let go of all that would hold up the end of this process, while another call waits."""


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
