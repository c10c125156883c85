"""Handing a run to a cluster: its job is made, and removed again if its driver does not begin."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tap_platform.config.profile import Profile
from tap_platform.places.place import Submission
from tap_platform.places.ray_jobs.enter import STORAGE_IS_THERE
from tap_platform.places.ray_jobs.jobs import metadata_of, next_id, of_run, why
from tap_platform.places.ray_jobs.package import (
    entry_point,
    environment_of,
    write_working_directory,
)

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

START_SECONDS = 60.0
"""How long a driver's first word is waited for; one that takes longer waits for room, no more."""
WITHDRAW_SECONDS = 15.0
"""How long the end of a driver that is withdrawn is waited for."""
_LOOK_EVERY_SECONDS = 0.5


def hand_over(
    client: JobSubmissionClient,
    submission: Submission,
    package: Path,
    place: str,
    profile: Profile | None = None,
) -> None:
    """Make a job of a run, and wait until its driver sees the storage, or `START_SECONDS`.

    Args:
        client: of the cluster.
        submission: the run.
        package: where its working directory is packed; the folder is there.
        place: the cluster's name, for messages.
        profile: of the cluster, if there is one.

    Raises:
        ValueError: if the run is there already, or its driver does not begin; nothing is left then.
    """
    write_working_directory(package, submission.files, submission.code)
    before = of_run(client.list_jobs(), submission.run)
    if going_on := [job for job in before if not job.status.is_terminal()]:
        raise ValueError(
            f"{submission.run} is on {place} already, as job {going_on[-1].submission_id}: wait for"
            f" its end, or tap stop {submission.run}"
        )
    job = client.submit_job(
        entrypoint=entry_point(submission),
        submission_id=next_id(submission.run, before),
        metadata=metadata_of(submission),
        runtime_env={
            "working_dir": str(package),
            "env_vars": environment_of(submission, profile),
        },
    )
    try:
        _await_first_word(client, job, looks=submission.job is not None)
    except BaseException:
        _withdraw(client, job)
        raise


def _await_first_word(client: JobSubmissionClient, job: str, *, looks: bool) -> None:
    """Wait until a driver has begun, and, if it looks for the storage, until it sees it.

    Raises:
        ValueError: if it has failed before.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        details = client.get_job_info(job)
        has_begun = details.driver_node_id is not None
        if has_begun and (not looks or STORAGE_IS_THERE in client.get_job_logs(job)):
            return
        if str(details.status) == "FAILED":
            raise ValueError(why(details))
        if details.status.is_terminal():
            return
        time.sleep(_LOOK_EVERY_SECONDS)


def _withdraw(client: JobSubmissionClient, job: str) -> None:
    """Leave nothing of a job, as far as the cluster answers."""
    deadline = time.monotonic() + WITHDRAW_SECONDS
    with suppress(RuntimeError, OSError):
        client.stop_job(job)
        while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_SECONDS)
        client.delete_job(job)
