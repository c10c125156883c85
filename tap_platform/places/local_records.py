"""What this computer remembers of the runs that were submitted to it."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tap_platform.places.place import Submission
from tap_platform.runs.directory import check_plain_name
from tap_platform.runs.files import utc_now, write_atomic
from tap_platform.runs.status import RunStatus

_FILE = "submission.json"


class LocalRecord(BaseModel):
    """A submission and its driver; times are UTC in ISO 8601."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    run: str
    """Its name."""
    project: str
    """Its project."""
    by: str
    """Who submitted it."""
    run_directory: Path | None
    """Where the run is kept; null of what is no run."""
    mirror: str | None
    """URL that its small files are copied to."""
    submitted: str
    """When."""
    driver: RunStatus
    """What a status would say before the driver writes one: which process it is."""
    stopped: str | None = None
    """When it was asked to end."""

    @classmethod
    def of(cls, submission: Submission, pid: int) -> LocalRecord:
        """The record of a submission whose driver has just been started."""
        import psutil

        job, path = submission.job, submission.lies
        return cls(
            run=submission.run,
            project=submission.project,
            by=submission.by,
            run_directory=job and Path(job.storage) / path,
            mirror=job and job.mirror.url and f"{job.mirror.url.rstrip('/')}/{path}",
            submitted=utc_now(),
            driver=RunStatus(pid=pid, process_started=psutil.Process(pid).create_time()),
        )

    @property
    def driver_lives(self) -> bool:
        """Whether the driver's process is there."""
        return not self.driver.observed().ended


def submission_folder(run: str) -> Path:
    """The folder of a run's record, files and driver's log.

    It is `$XDG_STATE_HOME/tap_platform/submissions/RUN`, in `~/.local/state` by default.

    Raises:
        ValueError: if the name is no plain folder name.
    """
    check_plain_name("run", run)
    return _submissions() / run


def _submissions() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "tap_platform" / "submissions"


def recorded_runs() -> list[str]:
    """Names of the runs that there are records of, sorted."""
    return sorted(path.parent.name for path in _submissions().glob(f"*/{_FILE}"))


def read_record(run: str) -> LocalRecord | None:
    """The record of a run; None if there is none.

    Raises:
        ValueError: if it is broken.
    """
    path = submission_folder(run) / _FILE
    try:
        return LocalRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ValueError(f"{path} is no record of a submission: {error}") from error


def write_record(record: LocalRecord) -> None:
    """Replace the record of a run; its folder is there."""
    path = submission_folder(record.run) / _FILE
    write_atomic(path, record.model_dump_json(indent=1).encode())
