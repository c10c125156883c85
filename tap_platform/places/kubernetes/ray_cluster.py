"""The Ray cluster of a run: its head, its groups of workers, and what keeps them alive."""

from __future__ import annotations

from typing import Any

from tap_platform.config.kubernetes import RedisConfig
from tap_platform.config.machines import quantity_bytes
from tap_platform.config.profile import KubernetesProfile
from tap_platform.estimate.nodes import NodeShare
from tap_platform.places.kubernetes.groups import shares
from tap_platform.places.kubernetes.pods import (
    METRICS_PORT,
    autoscaler_container,
    head_template,
    worker_template,
)
from tap_platform.places.place import Submission

_OBJECT_STORE = 0.3
"""Share of a node's memory that Ray's object store may take of /dev/shm."""
_MOST_OBJECT_STORE = 200 * 10**9


def cluster_spec(submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    """The spec of a RayCluster; only those with the cluster's token may use it.

    Raises:
        ValueError: if the profile's nodes do not hold the job.
    """
    found = shares(submission, profile)
    groups = [
        _worker_group(submission, profile, share, priority)
        for priority, share in zip(reversed(range(len(found))), found, strict=True)
    ]
    return {
        "rayVersion": profile.ray_version,
        "authOptions": {"mode": "token"},
        **(_autoscaling(profile) if profile.autoscale else {}),
        **(_fault_tolerance(profile.redis) if profile.redis else {}),
        "headGroupSpec": _head_group(submission, profile),
        "workerGroupSpecs": groups,
    }


def _head_group(submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    parameters = {
        "dashboard-host": "0.0.0.0",  # KubeRay asks it; a NetworkPolicy closes it
        # No worker and no reader lands here; what coordinates them asks for no CPU.
        "num-cpus": "0",
        "num-gpus": "0",
        **_parameters(quantity_bytes(profile.head.memory)),
    }
    return {"rayStartParams": parameters, "template": head_template(submission, profile)}


def _worker_group(
    submission: Submission, profile: KubernetesProfile, share: NodeShare, priority: int
) -> dict[str, Any]:
    """A group; with the autoscaler it starts with the nodes that are kept, and grows on demand.

    A driver that trains asks for its nodes. Other commands do not, and find theirs there.
    """
    parameters = {
        "num-cpus": str(share.cpus_per_pod),
        "num-gpus": str(share.gpus_per_pod),
        **_parameters(share.memory_bytes_per_pod),
    }
    grows = profile.autoscale and submission.job is not None
    least = min(share.group.least, share.pods_most) if grows else share.pods_least
    return {
        "groupName": share.group.name,
        "replicas": least if grows else share.pods_most,
        "minReplicas": least,
        "maxReplicas": share.pods_most,
        # The autoscaler asks the highest for nodes first.
        **({"priority": priority} if profile.autoscale else {}),
        "rayStartParams": parameters,
        "template": worker_template(submission, profile, share),
    }


def _parameters(memory: int) -> dict[str, str]:
    store = min(int(memory * _OBJECT_STORE), _MOST_OBJECT_STORE)
    return {"object-store-memory": str(store), "metrics-export-port": str(METRICS_PORT)}


def _autoscaling(profile: KubernetesProfile) -> dict[str, Any]:
    options = {
        "version": "v2",
        "idleTimeoutSeconds": profile.idle_seconds,
        **autoscaler_container(profile),
    }
    return {"enableInTreeAutoscaling": True, "autoscalerOptions": options}


def _fault_tolerance(redis: RedisConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"redisAddress": redis.address}
    if redis.password_secret is not None:
        key = {"name": redis.password_secret, "key": redis.password_key}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": key}}
    return {"gcsFaultToleranceOptions": options}
