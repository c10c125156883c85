"""What a RayJob's status means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tap_platform.places.kubernetes import names
from tap_platform.places.kubernetes.pod_problems import pod_problem
from tap_platform.places.place import PlaceState, State

Object = Mapping[str, Any]

_REASONS = {
    "DeadlineExceeded": "it was ended after lifetime.most_seconds of its profile",
    "PreRunningDeadlineExceeded": "it had no cluster within lifetime.start_seconds of its profile",
    "SubmissionFailed": "its command could not be handed to the cluster",
    "AppFailed": "its command failed; tap logs tells how",
    "JobDeploymentStatusTransitionGracePeriodExceeded": "the submitter ended, and the run did not",
    "JobStatusCheckTimeoutExceeded": "the cluster's head did not answer any more",
}
_GOING_ON = {
    "": "its pods are coming",
    "Initializing": "its pods are coming",
    "Waiting": "its pods are coming",
    "Running": "Ray is taking it up",
    "Retrying": "its cluster failed, and a new one comes; it goes on from its last checkpoint",
}
_COMMAND_ENDED = {
    "SUCCEEDED": "its command has ended well",
    "FAILED": "its command failed",
    "STOPPED": "its command was stopped",
}
_ENDED = ("Complete", "Failed", "ValidationFailed")
_ENDS: dict[str, State] = {"SUCCEEDED": "succeeded", "STOPPED": "stopped", "FAILED": "failed"}


class Told(NamedTuple):
    """What is known of a run in a namespace."""

    job: Object
    """The RayJob."""
    pods: Sequence[Object] = ()
    """Those of the run."""
    events: Sequence[Object] = ()
    """Warnings of the namespace."""
    queue: str = ""
    """What its queue says."""


def place_state(told: Told, place: str) -> PlaceState:
    """How a run stands.

    Args:
        told: what is known of it.
        place: the profile's name.
    """
    metadata, status = told.job["metadata"], told.job.get("status", {})
    annotations, labels = metadata.get("annotations", {}), metadata.get("labels", {})
    state, why = _state(told)
    directory = annotations.get(names.RUN_DIRECTORY)
    return PlaceState(
        # A label may have lost a part of the name that the directory still has.
        run=directory.rpartition("/")[2] if directory else labels.get(names.RUN, metadata["name"]),
        project=labels.get(names.PROJECT, ""),
        state=state,
        why=why,
        since=status.get("endTime") or status.get("startTime") or metadata.get("creationTimestamp"),
        place=place,
        run_directory=directory,
        mirror=annotations.get(names.MIRROR),
        by=annotations.get(names.SUBMITTED_BY, ""),
        submitted=metadata.get("creationTimestamp"),
    )


def _state(told: Told) -> tuple[State, str]:
    job = told.job
    status = job.get("status", {})
    deployment, ray = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    if job["metadata"].get("deletionTimestamp"):
        return "stopping", "its pods write a checkpoint and end"
    if deployment in _ENDED:
        return _end(told, deployment, ray)
    if deployment in ("Suspended", "Suspending") or (not deployment and job["spec"].get("suspend")):
        return "queued", _waiting(told)
    if deployment == "Running" and ray in _COMMAND_ENDED:
        return "running", f"{_COMMAND_ENDED[ray]}; its cluster is ending"
    if deployment in _GOING_ON:
        began: State = "running" if ray == "RUNNING" else "starting"
        return began, _problem(told) or ("" if began == "running" else _GOING_ON[deployment])
    return "unknown", f"KubeRay says {deployment!r}: is it newer than this tap?"


def _end(told: Told, deployment: str, ray: str) -> tuple[State, str]:
    message = told.job["status"].get("message", "")
    if deployment == "ValidationFailed":
        return "failed", f"KubeRay refuses it: {message}"
    if deployment == "Failed":
        return "failed", _failure(told.job["status"], told)
    return _ENDS.get(ray, "succeeded"), "" if ray == "SUCCEEDED" else message


def _failure(status: Object, told: Told) -> str:
    reason = status.get("reason", "")
    said = [_REASONS.get(reason, reason), status.get("message", ""), _problem(told)]
    return "; ".join(each for each in said if each)


def _waiting(told: Told) -> str:
    """Why it is held back."""
    queue = told.job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
    if queue is None:
        return "it is suspended: somebody set suspend"
    return f"it waits in the queue {queue}" + (f": {told.queue}" if told.queue else "")


def _problem(told: Told) -> str:
    """The first that is wrong with a pod that still counts."""
    living = [each for each in told.pods if not each["metadata"].get("deletionTimestamp")]
    found = [pod_problem(each, told.events) for each in living]
    return next((each for each in found if each), "")
