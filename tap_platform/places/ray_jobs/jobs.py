"""Runs as the Jobs API knows them: one job for each submission of a run, told apart by metadata."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tap_platform.places.kubernetes.names import (
    IDENTITY,
    KIND,
    MANAGED_BY,
    MIRROR,
    PROJECT,
    RUN,
    RUN_DIRECTORY,
    SUBMITTED_BY,
)
from tap_platform.places.place import PlaceState, State, Submission

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_STATES: dict[str, State] = {
    "PENDING": "starting",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}
_SAYS_NOTHING = ("Job is currently", "Job was intentionally", "Job finished")
_RAYS = "Running entrypoint for job"
_OURS = "tap: "


def metadata_of(submission: Submission) -> dict[str, str]:
    """What is written on the job of a run, so that everybody's `tap ps` can read it."""
    job = submission.job
    told = {
        "app.kubernetes.io/name": "tap-platform",
        MANAGED_BY: "tap",
        RUN: submission.run,
        PROJECT: submission.project,
        KIND: submission.kind,
        SUBMITTED_BY: submission.by,
        IDENTITY: job and job.identity,
        RUN_DIRECTORY: run_directory_of(submission),
        MIRROR: job and job.mirror.url and f"{job.mirror.url.rstrip('/')}/{submission.lies}",
    }
    return {key: text for key, text in told.items() if text}


def run_directory_of(submission: Submission) -> str | None:
    """The folder of the run, on the cluster; None of what keeps no run."""
    if submission.job is None:
        return None
    return str(PurePosixPath(submission.job.storage, submission.lies))


def of_run(jobs: Iterable[JobDetails], run: str) -> list[JobDetails]:
    """The jobs of a run, in the order of their submission."""
    return [job for job in _ours(jobs) if (job.metadata or {}).get(RUN) == run]


def newest_of_each(jobs: Iterable[JobDetails]) -> list[JobDetails]:
    """The last job of each run, in the order of their submission."""
    newest = {(job.metadata or {})[RUN]: job for job in _ours(jobs)}
    return sorted(newest.values(), key=_began)


def next_id(run: str, jobs: Iterable[JobDetails]) -> str:
    """The id of a run's next submission, `RUN`, `RUN-2`…: Ray takes an id only once."""
    taken = {job.submission_id for job in jobs}
    ids = chain([run], (f"{run}-{number}" for number in count(2)))
    return next(each for each in ids if each not in taken)


def state_of(job: JobDetails, place: str) -> PlaceState:
    """How the run of a job stands."""
    written = job.metadata or {}
    since = job.end_time or job.start_time
    return PlaceState(
        run=written[RUN],
        project=written.get(PROJECT, ""),
        state=_STATES.get(str(job.status), "unknown"),
        why=why(job),
        since=_iso(since) if since else None,
        place=place,
        run_directory=written.get(RUN_DIRECTORY),
        mirror=written.get(MIRROR),
        by=written.get(SUBMITTED_BY, ""),
        submitted=_iso(job.start_time) if job.start_time else None,
    )


def why(job: JobDetails) -> str:
    """Why a job is where it is: what `tap` said last, else Ray's last words; maybe nothing."""
    message = (job.message or "").strip()
    if message.startswith(_SAYS_NOTHING):
        return ""
    lines = [line for line in message.splitlines() if not line.startswith(_RAYS)]
    ours = [number for number, line in enumerate(lines) if line.startswith(_OURS)]
    if ours:
        return " ".join(line.strip() for line in lines[ours[-1] :]).removeprefix(_OURS)
    if job.driver_exit_code is not None and lines:
        return f"exit code {job.driver_exit_code}: {lines[-1].strip()}"
    return lines[-1].strip() if lines else ""


def _ours(jobs: Iterable[JobDetails]) -> list[JobDetails]:
    """The jobs that `tap` submitted; others may use the cluster too."""
    return sorted((job for job in jobs if RUN in (job.metadata or {})), key=_began)


def _began(job: JobDetails) -> int:
    return job.start_time or 0


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
