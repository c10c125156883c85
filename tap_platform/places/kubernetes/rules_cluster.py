"""What KubeRay refuses of the Ray cluster in a RayJob."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Manifest = Mapping[str, Any]
_LEAST_WITH_TOKENS = (2, 52)
_RAY_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_REDIS_VARIABLES = ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME")


def _token(cluster: Manifest) -> Iterator[str]:
    if cluster.get("authOptions", {}).get("mode") != "token":
        return
    version = cluster.get("rayVersion", "")
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < _LEAST_WITH_TOKENS:
        yield (
            f"authOptions.mode token needs Ray 2.52 or newer, and rayVersion is {version!r}: take a"
            " newer image, and say its version"
        )


def _autoscaler_pods_end(cluster: Manifest) -> Iterator[str]:
    if not _version_2(cluster):
        return
    for name, group in _groups(cluster):
        policy = group.get("template", {}).get("spec", {}).get("restartPolicy", "Never")
        if policy != "Never":
            yield (
                f"{name}: autoscaler v2 needs restartPolicy Never, or none, and it is {policy}: the"
                " autoscaler makes new pods"
            )


def _for_autoscaler_only(cluster: Manifest) -> Iterator[str]:
    if _version_2(cluster):
        return
    for name, group in _groups(cluster):
        for key in ("priority", "idleTimeoutSeconds"):
            if group.get(key):
                yield f"{name}: {key} is read by autoscaler v2 only, which is off: leave it out"


def _resources_once(cluster: Manifest) -> Iterator[str]:
    for name, group in _groups(cluster):
        parameters = group.get("rayStartParams", {})
        told = [key for key in _RAY_RESOURCES if parameters.get(key)]
        if told and group.get("resources"):
            yield f"{name}: resources stand in rayStartParams ({', '.join(told)}) too: say it once"
        if "labels" in parameters:
            yield f"{name}: rayStartParams takes no labels: write them as labels of the group"


def _has_containers(cluster: Manifest) -> Iterator[str]:
    for name, group in _groups(cluster):
        if not group.get("template", {}).get("spec", {}).get("containers"):
            yield f"{name}: its pod has no container"


def _replicas(cluster: Manifest) -> Iterator[str]:
    for name, group in _groups(cluster)[1:]:
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not 0 <= least <= group.get("replicas", least) <= most:
            yield f"{name}: replicas {group.get('replicas')} are not in {least} to {most}"


def _redis_by_its_options(cluster: Manifest) -> Iterator[str]:
    head = cluster.get("headGroupSpec", {})
    containers = head.get("template", {}).get("spec", {}).get("containers") or [{}]
    variables = {each["name"] for each in containers[0].get("env", [])}
    for name in sorted(variables.intersection(_REDIS_VARIABLES)):
        yield f"the head's variable {name} is KubeRay's to set: write gcsFaultToleranceOptions"
    for key in ("redis-password", "redis-username"):
        if key in head.get("rayStartParams", {}):
            yield f"the head's rayStartParams {key} is KubeRay's: write gcsFaultToleranceOptions"


def _version_2(cluster: Manifest) -> bool:
    version = cluster.get("autoscalerOptions", {}).get("version")
    return bool(cluster.get("enableInTreeAutoscaling")) and version == "v2"


def _groups(cluster: Manifest) -> list[tuple[str, Manifest]]:
    """What messages call a group, and the group; the head first."""
    workers = [
        (f"group {group.get('groupName')}", group) for group in cluster.get("workerGroupSpecs", [])
    ]
    return [("the head", cluster.get("headGroupSpec", {})), *workers]


CLUSTER_RULES: tuple[Callable[[Manifest], Iterator[str]], ...] = (
    _token,
    _autoscaler_pods_end,
    _for_autoscaler_only,
    _resources_once,
    _has_containers,
    _replicas,
    _redis_by_its_options,
)
