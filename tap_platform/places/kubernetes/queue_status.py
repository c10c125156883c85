"""What Kueue says of a run that waits, as far as one may ask."""

from __future__ import annotations

from tap_platform.places.kubernetes.client import Cluster, Object
from tap_platform.places.kubernetes.errors import (
    ForbiddenError,
    NotThereError,
    UnknownKindError,
)
from tap_platform.places.kubernetes.resources import LOCAL_QUEUES, WORKLOADS

_JOB = "kueue.x-k8s.io/job-uid"
_TELLING = ("Admitted", "QuotaReserved", "Evicted", "Requeued")


def why_it_waits(cluster: Cluster, job: Object) -> str:
    """The newest word of Kueue on a RayJob; empty if there is none, or one may not ask."""
    try:
        workloads = cluster.list(WORKLOADS, f"{_JOB}={job['metadata']['uid']}")
    except (ForbiddenError, NotThereError):
        return ""
    said = [
        condition
        for workload in workloads
        for condition in workload.get("status", {}).get("conditions", [])
        if condition["type"] in _TELLING and condition.get("message")
    ]
    said.sort(key=lambda condition: str(condition.get("lastTransitionTime", "")))
    return str(said[-1]["message"]) if said else ""


def queue_faults(cluster: Cluster, queue: str) -> list[str]:
    """What is wrong with a queue; nothing if one may not ask."""
    try:
        found = cluster.get(LOCAL_QUEUES, queue)
    except ForbiddenError:
        return []
    except UnknownKindError:
        return [f"there is no queue {queue!r}: Kueue is not installed; leave the queue out"]
    except NotThereError:
        known = sorted(each["metadata"]["name"] for each in cluster.list(LOCAL_QUEUES))
        there = f"there are: {', '.join(known)}" if known else "there is none in this namespace"
        return [f"there is no queue {queue!r}; {there} (--queue, or the profile's queue.name)"]
    return _closed(found, queue)


def _closed(found: Object, queue: str) -> list[str]:
    """A queue that lets nothing through, for whatever reason, is a fault; a long one is not."""
    if found.get("spec", {}).get("stopPolicy", "None") != "None":
        return [f"the queue {queue} is closed by its administrator (stopPolicy): take another"]
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] == "Active" and condition["status"] == "False":
            return [f"the queue {queue} is not active: {condition.get('message', '')}"]
    return []
