"""A Ray cluster as a place: runs are jobs of its Jobs API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import yaml

from tap_platform.config.profile import RayProfile
from tap_platform.places.place import PlaceState, Submission
from tap_platform.places.ray_jobs.client import (
    check_version,
    credentials,
    dashboard_of,
    jobs_api,
    ray_version_of,
)
from tap_platform.places.ray_jobs.hand_over import hand_over
from tap_platform.places.ray_jobs.jobs import metadata_of, newest_of_each, of_run, state_of
from tap_platform.places.ray_jobs.logs import followed_lines
from tap_platform.places.ray_jobs.package import FILES, entry_point, environment_of
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.stop_request import StopRequest

if TYPE_CHECKING:
    from ray.job_submission import JobDetails


class RayJobsPlace:
    """A cluster that is there already. Its head, where drivers run, sees the storage, as all nodes.

    It is the cluster's administrator who lets people in; `RAY_AUTH_TOKEN` and its kin say who.
    """

    files = FILES

    def __init__(self, name: str, address: str, profile: RayProfile | None = None) -> None:
        """Ask nothing yet.

        Args:
            name: the profile's, or the address.
            address: of the dashboard, `http://head:8265`, or for clients, `ray://head:10001`.
            profile: where the runs are seen from here, and what machines cost; None where there is
                none.

        Raises:
            ValueError: if it is no address.
        """
        self.name = name
        self._url = dashboard_of(address)
        self._profile = profile
        self._storage = profile.storage if profile else None

    def render(self, submission: Submission) -> str:
        """The request to the Jobs API, as YAML, with the files of its working directory."""
        _check_storage(submission)
        files = {f"{FILES}/{name}": text for name, text in submission.files.items()}
        if submission.code:
            files["(code)"] = f"{submission.code.files} files of {submission.code.revision}"
        request = {
            "address": self._url,
            "submission_id": submission.run,
            "entrypoint": entry_point(submission),
            "metadata": metadata_of(submission),
            "runtime_env": {
                "env_vars": environment_of(submission, self._profile),
                "working_dir": files,
            },
        }
        return yaml.safe_dump(request, sort_keys=False, width=1000)

    def submit(self, submission: Submission) -> None:
        """Hand a run to the cluster, and wait for its driver's first word, as `hand_over` tells."""
        _check_storage(submission)
        check_version(self._url, ray_version_of(self._url, credentials(os.environ)))
        with TemporaryDirectory() as folder, jobs_api(self._url) as client:
            hand_over(client, submission, Path(folder, "package.zip"), self.name, self._profile)

    def state(self, run: str) -> PlaceState:
        """How a run stands; `gone` if this cluster does not know it (any more)."""
        with jobs_api(self._url) as client:
            jobs = of_run(client.list_jobs(), run)
        if not jobs:
            why_gone = "the cluster does not know it: it is another one, or has been started anew"
            return PlaceState(run, "", "gone", why_gone, None, self.name, None, None, "")
        return self._state(jobs[-1])

    def states(self) -> list[PlaceState]:
        """All runs that were submitted to this cluster, by anybody."""
        with jobs_api(self._url) as client:
            return [self._state(job) for job in newest_of_each(client.list_jobs())]

    def logs(self, run: str, follow: bool, rank: int | None) -> Iterator[str]:
        """The lines that the driver printed; a connection that drops is made anew.

        Raises:
            ValueError: if the cluster does not know the run; of a worker: its log lies in the run
                directory, and no cluster shows it.
        """
        if rank is not None:
            raise ValueError(
                f"{self.name} shows no log of rank {rank}: it lies in the run directory"
            )
        with jobs_api(self._url) as client:
            jobs = of_run(client.list_jobs(), run)
            if not jobs:
                raise ValueError(f"{self.name} does not know {run}")
            job = str(jobs[-1].submission_id)
            if follow:
                yield from followed_lines(client, job)
            else:
                yield from client.get_job_logs(job).splitlines()

    def stop(self, run: str, grace: float) -> None:
        """Send the driver SIGTERM: it has the job's `scale.grace_seconds` for a checkpoint.

        Raises:
            ValueError: if the run has ended, or no grace is given: Ray ends no job without.
        """
        if grace <= 0:
            raise ValueError(
                f"a Ray cluster ends no run at once: {run} has the scale.grace_seconds of its job;"
                " stop it without changing the grace"
            )
        with jobs_api(self._url) as client:
            going_on = [j for j in of_run(client.list_jobs(), run) if not j.status.is_terminal()]
            if not going_on:
                raise ValueError(f"{run} does not run on {self.name}: there is nothing to stop")
            client.stop_job(str(going_on[-1].submission_id))

    def _state(self, job: JobDetails) -> PlaceState:
        """What Ray says; that a driver has been asked to end, only the run directory knows."""
        state = state_of(job, self.name)
        seen = self._seen(state)
        if state.state == "running" and seen and _is_asked_to_end(seen, job.start_time or 0):
            return state._replace(state="stopping", why="the workers write a checkpoint")
        return state

    def _seen(self, state: PlaceState) -> RunDirectory | None:
        """The run's directory, if it is seen from here."""
        if self._storage and self._storage.seen_here:
            return RunDirectory(Path(self._storage.seen_here, state.lies))
        path = Path(state.run_directory or "")
        return RunDirectory(path) if state.run_directory and path.is_dir() else None


def _is_asked_to_end(run: RunDirectory, since: int) -> bool:
    """Whether a driver has been asked to end, since it was submitted (milliseconds since 1970)."""
    request = StopRequest(run)
    return request.asked() and request.path.stat().st_mtime * 1000 > since


def _check_storage(submission: Submission) -> None:
    """Refuse a storage that means something else on each node.

    Raises:
        ValueError: if it is not absolute.
    """
    if submission.job is not None and not Path(submission.job.storage).is_absolute():
        raise ValueError(
            f"the storage {submission.job.storage} is no folder that all nodes of the cluster see:"
            " give one, such as storage=/mnt/tap/runs"
        )
