"""The run directory: the one truth about a run, from which everything else is made."""

from __future__ import annotations

import difflib
import re
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tap_platform.runs.status import RunStatus, read_status, write_status

SWEEPS = "sweeps"
"""Folder of a project that holds its sweeps, beside its runs."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run, `<storage>/<project>/<run>/`. A folder with a status is a run."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name, its identity for life."""
        return self.path.name

    @property
    def project(self) -> str:
        """The project that the run belongs to."""
        return self.path.parents[1].name if self.is_sweep else self.path.parent.name

    @property
    def shelf(self) -> str:
        """The folder of its storage that it lies in: `PROJECT`, or `PROJECT/sweeps`."""
        return f"{self.project}/{SWEEPS}" if self.is_sweep else self.project

    @property
    def is_sweep(self) -> bool:
        """Whether it is the folder of a sweep, which has many of the same files."""
        return self.path.parent.name == SWEEPS

    @property
    def storage(self) -> Path:
        """The folder of all projects."""
        return self.path.parent.parent

    @property
    def config(self) -> Path:
        """The resolved config, JSON."""
        return self.path / "config.json"

    @property
    def pipeline(self) -> Path:
        """The resolved stages, JSON, in place of a config: of a pipeline's own run only."""
        return self.path / "pipeline.json"

    @property
    def initial_weights(self) -> Path:
        """What the run started from, if not from random weights, JSON."""
        return self.path / "initial_weights.json"

    @property
    def tokenizer(self) -> Path:
        """The SentencePiece model of a run that learns captions."""
        return self.path / "tokenizer.model"

    @property
    def plan(self) -> Path:
        """What was planned before anything was scheduled, JSON."""
        return self.path / "plan.json"

    @property
    def provenance(self) -> Path:
        """The code, packages and data that the run is made of, JSON."""
        return self.path / "provenance.json"

    @property
    def status(self) -> Path:
        """What the run is doing, JSON."""
        return self.path / "status.json"

    @property
    def events(self) -> Path:
        """What happened, JSON lines."""
        return self.path / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """How it went, JSON lines."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of `step-N/`."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Folder of pictures, `NAME-step-N.png` where they belong to a step."""
        return self.path / "pictures"

    @property
    def report(self) -> Path:
        """Folder of what was made of the run for people."""
        return self.path / "report"

    @property
    def logs(self) -> Path:
        """Folder of `attempt-K/rank-N.log`."""
        return self.path / "logs"

    def log(self, attempt: int, rank: int) -> Path:
        """The text that one worker of one attempt printed."""
        return self.logs / f"attempt-{attempt}" / f"rank-{rank}.log"

    def driver_log(self, attempt: int) -> Path:
        """The text that the driver of one attempt printed; only of a driver in a cluster."""
        return self.logs / f"attempt-{attempt}" / "driver.log"

    @property
    def attempt(self) -> int:
        """The number of the latest attempt; 0 before the first."""
        return max((int(folder.name[8:]) for folder in self.logs.glob("attempt-*")), default=0)

    def begin_attempt(self) -> int:
        """Take the next attempt's number, from 1; two processes never get the same one."""
        while True:
            attempt = self.attempt + 1
            try:
                (self.logs / f"attempt-{attempt}").mkdir(parents=True)
            except FileExistsError:
                continue
            return attempt

    @property
    def parent(self) -> RunDirectory | None:
        """The run that this one is a stage of; None for a run of its own, or if it has gone."""
        name = read_status(self.status).parent
        parent = None if name is None else RunDirectory(self.path.with_name(name))
        return parent if parent and parent.status.is_file() else None

    @classmethod
    def create(cls, storage: str | Path, project: str, name: str) -> RunDirectory:
        """Make the folders of a new run, with the status `preparing`.

        Raises:
            ValueError: The storage cannot be written, a name is not plain, or the run exists.
        """
        check_plain_name("project", project)
        check_plain_name("run", name)
        run = cls(local_path(storage) / project / name)
        try:
            run.path.mkdir(parents=True)
            for folder in (run.checkpoints, run.pictures, run.report, run.logs):
                folder.mkdir()
            write_status(run.status, RunStatus())
        except FileExistsError as error:
            raise ValueError(
                f"cannot make the run {run.path}: {error.filename} exists already; choose another "
                "name, or resume the run"
            ) from error
        except OSError as error:
            raise _not_writable(storage, error) from error
        return run

    @classmethod
    def all(cls, storage: str | Path) -> Iterator[RunDirectory]:
        """The runs of a storage, by project and name."""
        for status in sorted(local_path(storage).glob("*/*/status.json")):
            yield cls(status.parent)

    @classmethod
    def find(cls, storage: str | Path, name_or_path: str | Path) -> RunDirectory:
        """The run of that folder, or of that name in the storage, `PROJECT/RUN` or `RUN`.

        Raises:
            ValueError: There is none; the message gives the nearest names.
        """
        path = Path(name_or_path).absolute()
        if (path / "status.json").is_file():
            return cls(path)
        wanted = str(name_or_path)
        there = list(cls.all(storage))
        runs = {run.name: run for run in there}
        by_project = {f"{run.project}/{run.name}": run for run in there}
        if found := runs.get(wanted) or by_project.get(wanted):
            return found
        if path.is_dir():
            raise ValueError(f"{path} is no run directory: it has no status.json")
        near = difflib.get_close_matches(wanted.rpartition("/")[2], runs, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"none of {len(runs)} is like it"
        raise ValueError(
            f"there is no run {wanted!r} in {storage}: {hint}; a run that lies elsewhere is named"
            " by the path of its directory"
        )


def check_plain_name(kind: str, name: str) -> None:
    """Refuse a name that is no plain folder name: it leads elsewhere, or looks like an option.

    Args:
        kind: What it names, `run` or `project`.
        name: The name.

    Raises:
        ValueError: It is not plain.
    """
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(
            f"the {kind} name {name!r} does not do as a folder name: use letters, digits, '_', '-'"
            " and '.', not beginning with '-' or '.'"
        )


def new_run_name(job_name: str) -> str:
    """A name that sorts by time and is used once: `tap_tiny_scenes-20261121-153000-a1b2` (UTC)."""
    return f"{job_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def check_storage(storage: str | Path) -> None:
    """Make sure that runs can be written to a storage, before anything is made for them.

    Raises:
        ValueError: It is a URL, or cannot be written.
    """
    path = local_path(storage)
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _not_writable(storage, error) from error


def _not_writable(storage: str | Path, error: OSError) -> ValueError:
    return ValueError(
        f"cannot write to the storage {storage} ({error.strerror}: {error.filename}): make it"
        " writable, or choose another"
    )


def local_path(storage: str | Path) -> Path:
    """The storage as an absolute path.

    Raises:
        ValueError: It is a URL.
    """
    if "://" in str(storage):
        raise ValueError(
            f"the storage {storage} is a URL, and runs are kept in local or mounted folders: give "
            "a path, such as the mount point of that storage"
        )
    return Path(storage).expanduser().absolute()
