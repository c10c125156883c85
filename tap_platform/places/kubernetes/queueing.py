"""The queue that a run waits in: labels of its scheduler, and what does not go with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes import names

KUEUE = "kueue.x-k8s.io/queue-name"
_POD_SETS = 8
"""Kinds of pods that a workload of Kueue may have; the head and the submitter are two of them."""
_KUEUES_OWN = ("head", "submitter")


def queue_labels(profile: KubernetesProfile, run: str) -> dict[str, str]:
    """Labels of a RayJob that put it into the profile's queue."""
    if profile.queue is None:
        return {}
    name = profile.queue.name
    match profile.queue.system:
        case "kueue":
            return {KUEUE: name}
        case "volcano":
            priority = {"ray.io/priority-class-name": profile.priority} if profile.priority else {}
            return {"volcano.sh/queue-name": name, **priority}
        case "yunikorn":
            return {
                "ray.io/gang-scheduling-enabled": "true",
                "yunikorn.apache.org/app-id": names.object_name(run),
                "yunikorn.apache.org/queue": name,
            }
        case "kai":
            return {"kai.scheduler/queue": name}


def starts_suspended(profile: KubernetesProfile) -> bool:
    """Whether a run is made without pods, which its queue lets be made later."""
    return profile.queue is not None and profile.queue.system == "kueue"


def kueue_faults(job: Mapping[str, Any]) -> Iterator[str]:
    """What Kueue refuses of a RayJob in one of its queues."""
    if KUEUE not in job["metadata"].get("labels", {}):
        return
    spec, cluster = job["spec"], job["spec"].get("rayClusterSpec", {})
    if spec.get("clusterSelector"):
        yield "Kueue takes no RayJob with a clusterSelector: a running cluster waits in no queue"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "Kueue needs shutdownAfterJobFinishes: true, or the queue's room is never given back"
    if cluster.get("enableInTreeAutoscaling"):
        yield (
            "Kueue does not go with Ray's autoscaler: it admits a run with all its pods, and counts"
            " none that come later; set autoscale: false, or take another queue"
        )
    groups = [group["groupName"] for group in cluster.get("workerGroupSpecs", [])]
    if len(groups) + len(_KUEUES_OWN) > _POD_SETS:
        yield (
            f"Kueue takes {_POD_SETS - len(_KUEUES_OWN)} groups of workers beside head and"
            f" submitter, the RayJob has {len(groups)}: take fewer groups"
        )
    for name in sorted(set(groups).intersection(_KUEUES_OWN)):
        yield f"group {name!r}: Kueue keeps this name for itself; call the group otherwise"
