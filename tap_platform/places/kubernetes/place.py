"""A namespace of a Kubernetes cluster with KubeRay as a place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes import names
from tap_platform.places.kubernetes.errors import (
    ForbiddenError,
    NotThereError,
    RefusedError,
    TakenError,
    UnknownKindError,
)
from tap_platform.places.kubernetes.resources import BUDGETS, CONFIG_MAPS, EVENTS, PODS, RAY_JOBS
from tap_platform.places.kubernetes.status import Told, place_state
from tap_platform.places.kubernetes.volumes import FILES
from tap_platform.places.place import PlaceState, Submission

if TYPE_CHECKING:
    from tap_platform.places.kubernetes.client import Cluster, Object


CLEARED_WITHIN_SECONDS = 180.0
"""How long what an ended run left may take to go, before it is submitted again."""
LOOK_EVERY_SECONDS = 1.0


class KubernetesPlace:
    """Every run is a RayJob, which has a cluster of its own."""

    files = FILES

    def __init__(self, name: str, profile: KubernetesProfile) -> None:
        """Ask nothing yet.

        Args:
            name: the profile's.
            profile: which cluster and namespace, and what runs find there.
        """
        self.name, self._profile = name, profile

    def render(self, submission: Submission) -> str:
        """The manifests.

        Raises:
            ValueError: if the profile does not hold the job, or a rule is broken.
        """
        from tap_platform.places.kubernetes.objects import render, to_yaml

        return to_yaml(render(submission, self._profile, self.name))

    def submit(self, submission: Submission) -> None:
        """Make the run's objects, all or none.

        Raises:
            ValueError: if it is refused, or the namespace has a run of that name.
        """
        from tap_platform.places.kubernetes.apply import apply
        from tap_platform.places.kubernetes.objects import render
        from tap_platform.places.kubernetes.presence import check_presence

        objects = render(submission, self._profile, self.name)
        self._refuse_second(submission.run)
        check_presence(self._cluster, self._profile)
        try:
            apply(self._cluster, objects)
        except TakenError as error:
            raise TakenError(
                f"{error}: another run has these names; choose another (--run)", error.status
            ) from None

    def state(self, run: str) -> PlaceState:
        """How a run stands; `gone` if no RayJob is of it (any more)."""
        try:
            job = self._job(run)
        except NotThereError as error:
            return PlaceState(run, "", "gone", str(error), None, self.name, None, None, "")
        pods = self._cluster.list(PODS, _labels_of(job))
        return place_state(self._told(job, pods), self.name)

    def states(self) -> list[PlaceState]:
        """All runs of the namespace, whoever submitted them."""
        jobs = self._cluster.list(RAY_JOBS, f"{names.MANAGED_BY}=tap")
        pods = self._cluster.list(PODS, names.RUN) if jobs else []
        return [place_state(self._told(job, pods), self.name) for job in jobs]

    def logs(self, run: str, follow: bool, rank: int | None) -> Iterator[str]:
        """The lines of the driver, as the pod that follows it prints them.

        Raises:
            ValueError: if no pod has them (any more); of a worker, they lie in the run directory.
        """
        from tap_platform.places.kubernetes.logs import driver_lines

        if rank is not None:
            raise ValueError(
                f"the log of rank {rank} lies in the run directory, which {self.name} does not"
                " show: name storage.seen_here or storage.mirror in the profile"
            )
        return driver_lines(self._cluster, run, follow)

    def stop(self, run: str, grace: float) -> None:
        """Delete the RayJob; its pods write a checkpoint within the grace that they came with.

        Args:
            run: its name.
            grace: 0 ends the pods at once.
        """
        job = self._job(run)
        name = job["metadata"]["name"]
        self._cluster.delete(RAY_JOBS, name, foreground=grace > 0)
        if grace <= 0:
            for pod in self._cluster.list(PODS, _labels_of(job)):
                self._end_now(pod)

    def clear(self, run: str) -> None:
        """Have what an ended run left removed, and wait until it is: a RayJob runs once.

        Raises:
            ValueError: if the run goes on, or it takes longer than `CLEARED_WITHIN_SECONDS`.
        """
        self._delete_ended(run)
        deadline = time.monotonic() + CLEARED_WITHIN_SECONDS
        while left := list(self._left_of(run)):
            if time.monotonic() > deadline:
                raise ValueError(
                    f"what {run} left at {self.name} is still there after"
                    f" {CLEARED_WITHIN_SECONDS:.0f} s ({', '.join(left)}): try again in a while, or"
                    " delete it"
                )
            time.sleep(LOOK_EVERY_SECONDS)

    def _delete_ended(self, run: str) -> None:
        try:
            job = self._job(run)
        except NotThereError:
            return
        state = place_state(Told(job), self.name)
        if not (state.ended or state.state == "stopping"):
            # Somebody else submitted it again meanwhile.
            raise ValueError(f"{run} goes on at {self.name} ({state.state}): stop it first")
        with suppress(NotThereError):
            self._cluster.delete(RAY_JOBS, job["metadata"]["name"], foreground=True)

    def _left_of(self, run: str) -> Iterator[str]:
        """What is there of a run, in whatever order it vanishes."""
        made = {
            RAY_JOBS: names.object_name(run),
            BUDGETS: names.object_name(run),
            CONFIG_MAPS: names.files_name(run),
        }
        for resource, name in made.items():
            try:
                labels = self._cluster.get(resource, name)["metadata"].get("labels", {})
            except (NotThereError, ForbiddenError):
                continue
            if labels.get(names.RUN) == names.label_value(run):
                yield f"{resource.kind} {name}"
        for pod in self._cluster.list(PODS, f"{names.RUN}={names.label_value(run)}"):
            yield f"Pod {pod['metadata']['name']}"

    @cached_property
    def _cluster(self) -> Cluster:
        from tap_platform.places.kubernetes.client import Cluster

        return Cluster(self._profile.context, self._profile.namespace)

    def _job(self, run: str) -> Object:
        """The RayJob of a run, and not one whose name was cut to the same."""
        job = self._cluster.get(RAY_JOBS, names.object_name(run))
        if job["metadata"].get("labels", {}).get(names.RUN) != names.label_value(run):
            raise NotThereError(f"{self._cluster.where}: there is no run {run}", 404)
        return job

    def _told(self, job: Object, pods: list[Object]) -> Told:
        """What there is to know of a run; `pods` may be those of all runs."""
        from tap_platform.places.kubernetes.queue_status import why_it_waits

        run = job["metadata"]["labels"][names.RUN]
        own = [pod for pod in pods if pod["metadata"]["labels"][names.RUN] == run]
        is_held = job["spec"].get("suspend", False)
        waits = any(pod.get("status", {}).get("phase") == "Pending" for pod in own)
        return Told(
            job,
            own,
            events=self._warnings() if waits else (),
            queue=why_it_waits(self._cluster, job) if is_held else "",
        )

    def _warnings(self) -> list[Object]:
        try:
            events = self._cluster.list(EVENTS)
        except ForbiddenError:
            return []
        return [event for event in events if event.get("type") == "Warning"]

    def _end_now(self, pod: Object) -> None:
        try:
            self._cluster.delete(PODS, pod["metadata"]["name"], now=True)
        except NotThereError:
            return
        except ForbiddenError as error:
            raise ForbiddenError(
                f"{error}\nThe run is being stopped, but its pods take their grace for it", 403
            ) from None

    def _refuse_second(self, run: str) -> None:
        try:
            there = place_state(
                Told(self._cluster.get(RAY_JOBS, names.object_name(run))), self.name
            )
        except UnknownKindError:
            raise
        except NotThereError:
            return
        if there.ended:
            cure = f"it goes on with: tap resubmit {run}"
        else:
            cure = f"wait for its end, or tap stop {run}"
        raise RefusedError(f"{self.name} has the run {run} already ({there.state}): {cure}", 409)


def _labels_of(job: Object) -> str:
    """Selects what belongs to a run."""
    return f"{names.RUN}={job['metadata']['labels'][names.RUN]}"
