"""Who a tracked run is: a run, a run of runs or a sweep, and what it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tap_platform.runs.directory import SWEEPS, RunDirectory
from tap_platform.runs.files import read_json
from tap_platform.runs.status import read_status

LINK = "sweep.json"
"""In a run's directory: the `sweep` and the `trial` that it is. In a sweep's: the sweep itself."""
TRIALS = "trials.jsonl"
"""What happened to a sweep's trials."""

Kind = Literal["run", "runs", "sweep"]


@dataclass(frozen=True)
class Shown:
    """What a tracker knows a run by."""

    name: str
    """Its name, which does not change."""
    project: str
    """What trackers keep together: MLflow's experiment, W&B's project."""
    kind: Kind
    """A run that trains, one that holds runs, or a sweep."""
    path: Path
    """Its directory."""
    storage: Path
    """The folder of all projects."""
    started: str
    """When it was first started, UTC in ISO 8601."""
    parent: Shown | None = None
    """The run of runs, or the sweep, that it belongs to."""
    revision: str | None = None
    """The commit of the code."""

    @property
    def group(self) -> str | None:
        """What it and its like are found under: the parent's name; None for one by itself."""
        if self.parent is not None:
            return self.parent.name
        return None if self.kind == "run" else self.name

    @property
    def job_type(self) -> str:
        """What it is among those of its group."""
        if self.kind != "run":
            return {"runs": "pipeline", "sweep": "sweep"}[self.kind]
        if self.parent is None:
            return "train"
        return "trial" if self.parent.kind == "sweep" else "stage"


def shown_run(run: RunDirectory) -> Shown:
    """What a run directory is shown as.

    Raises:
        FileNotFoundError: It has no status.
        ValueError: A file of it is broken.
    """
    made_of = read_json(run.provenance) if run.provenance.is_file() else {}
    return Shown(
        name=run.name,
        project=run.project,
        kind="run" if not run.pipeline.is_file() else "runs",
        path=run.path,
        storage=run.storage,
        started=read_status(run.status).started,
        parent=_parent(run),
        revision=made_of.get("git_revision"),
    )


def shown_sweep(folder: Path) -> Shown:
    """What the directory of a sweep is shown as, `<storage>/<project>/sweeps/<sweep>`.

    Raises:
        FileNotFoundError: It has no status.
        ValueError: Its status is broken.
    """
    return Shown(
        name=folder.name,
        project=folder.parent.parent.name,
        kind="sweep",
        path=folder,
        storage=folder.parent.parent.parent,
        started=read_status(folder / "status.json").started,
    )


def link_of(run: RunDirectory) -> dict[str, Any]:
    """The sweep and the trial that a run is; empty for others."""
    path = run.path / LINK
    return dict(read_json(path)) if path.is_file() else {}


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return folder.parent.name == SWEEPS and (folder / LINK).is_file()


def _parent(run: RunDirectory) -> Shown | None:
    if parent := run.parent:
        return shown_run(parent)
    if sweep := link_of(run).get("sweep"):
        folder = run.path.parent / SWEEPS / str(sweep)
        return shown_sweep(folder) if (folder / "status.json").is_file() else None
    return None
