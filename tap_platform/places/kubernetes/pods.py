"""Templates of the three kinds of pods of a run: Ray's head, its workers, the submitter."""

from __future__ import annotations

from typing import Any

from tap_platform.config.profile import KubernetesProfile
from tap_platform.estimate.nodes import NodeShare
from tap_platform.places.kubernetes import names
from tap_platform.places.kubernetes.environment import (
    environment_sources,
    head_environment,
    helper_environment,
    pre_stop_seconds,
    stop_seconds,
    termination_seconds,
    worker_environment,
)
from tap_platform.places.kubernetes.patches import patched
from tap_platform.places.kubernetes.pod_spec import (
    CONTAINER_SECURITY,
    any_spec,
    fixed,
    node_spec,
)
from tap_platform.places.kubernetes.volumes import (
    Volume,
    api_token,
    files,
    mounts,
    secrets,
    storage,
    volumes,
    writable,
)
from tap_platform.places.place import Submission

METRICS_PORT = 8080
_HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": METRICS_PORT}
_LEAVE = ["python", "-m", "tap_platform.places.leave"]
_SUBMITTER_RESOURCES = {"cpu": "1", "memory": "1Gi"}


def head_template(submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    """The pod of Ray's head, where the driver of the run lives too."""
    head = profile.head
    resources = {"cpu": str(head.cpus), "memory": head.memory, **head.resources}
    variables = head_environment(submission, profile)
    container = _ray_container("ray-head", submission, profile, variables, resources, _HEAD_PORTS)
    ends = termination_seconds(stop_seconds(submission))
    seen = _of_node(submission, profile)
    token = [api_token()] if profile.autoscale else []
    spec = {
        **node_spec(submission, profile, head, {"ray.io/node-type": "head"}, ends),
        "containers": [container],
        "volumes": volumes([*seen, *token]),
    }
    return patched(_template(submission, profile, spec), profile.pod_patch.head)


def worker_template(
    submission: Submission, profile: KubernetesProfile, share: NodeShare
) -> dict[str, Any]:
    """A worker's pod: a node of a group, or the share of one that the job needs."""
    group = share.group
    resources = {
        "cpu": str(share.cpus_per_pod),
        "memory": _quantity(share.memory_bytes_per_pod),
        **_gpus(share),
        **group.resources,
    }
    ports, variables = {"metrics": METRICS_PORT}, worker_environment(submission, profile, group)
    container = _ray_container("ray-worker", submission, profile, variables, resources, ports)
    ends = termination_seconds(pre_stop_seconds(submission))
    spec = {
        **node_spec(submission, profile, group, {"ray.io/group": group.name}, ends),
        "containers": [container],
        "volumes": volumes(_of_node(submission, profile)),
    }
    return patched(_template(submission, profile, spec), profile.pod_patch.workers)


def submitter_template(submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    """The pod that hands the run to Ray and follows it: it needs no secrets and no storage."""
    seen = [*writable(), *([files(submission)] if submission.code else [])]
    container = {
        "name": "ray-job-submitter",
        "image": profile.image,
        "imagePullPolicy": "IfNotPresent",
        "env": helper_environment(),
        "resources": fixed(_SUBMITTER_RESOURCES),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts(seen),
    }
    spec = {
        **any_spec(profile, profile.head),
        "containers": [container],
        "volumes": volumes(seen),
    }
    return patched(_template(submission, profile, spec), profile.pod_patch.submitter)


def autoscaler_container(profile: KubernetesProfile) -> dict[str, Any]:
    """What KubeRay's container beside the head is given: the only one that talks to Kubernetes."""
    return {
        "imagePullPolicy": "IfNotPresent",
        "resources": fixed({"cpu": "500m", "memory": "1Gi"}),
        "securityContext": CONTAINER_SECURITY,
        "env": helper_environment(),
        "volumeMounts": mounts([*writable(), api_token()]),
    }


def _ray_container(
    name: str,
    submission: Submission,
    profile: KubernetesProfile,
    variables: list[dict[str, Any]],
    resources: dict[str, str],
    ports: dict[str, int],
) -> dict[str, Any]:
    sources = environment_sources(profile)
    return {
        "name": name,
        "image": profile.image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        "env": variables,
        **({"envFrom": sources} if sources else {}),
        "resources": fixed(resources),
        "securityContext": CONTAINER_SECURITY,
        "lifecycle": {"preStop": {"exec": {"command": _LEAVE}}},
        "volumeMounts": mounts(_of_node(submission, profile)),
    }


def _of_node(submission: Submission, profile: KubernetesProfile) -> list[Volume]:
    return [*writable(), files(submission), *storage(profile), *secrets(profile)]


def _template(
    submission: Submission, profile: KubernetesProfile, spec: dict[str, Any]
) -> dict[str, Any]:
    return {"metadata": {"labels": names.pod_labels(submission, profile)}, "spec": spec}


def _gpus(share: NodeShare) -> dict[str, str]:
    gpu = share.group.gpu
    return {gpu.resource: str(share.gpus_per_pod)} if gpu and share.gpus_per_pod else {}


def _quantity(memory: int) -> str:
    """Whole mebibytes, or gibibytes where they are whole."""
    return f"{memory // 2**20}Mi" if memory % 2**30 else f"{memory // 2**30}Gi"
