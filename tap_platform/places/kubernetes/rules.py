"""What KubeRay and Kubernetes refuse, told before anything is sent.

KubeRay's operator takes a RayJob that breaks a rule and only later says so, in its status.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tap_platform.places.kubernetes import names
from tap_platform.places.kubernetes.queueing import kueue_faults
from tap_platform.places.kubernetes.rules_cluster import CLUSTER_RULES

Manifest = Mapping[str, Any]
MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
MOST_FILES = 2**20
"""Bytes of a ConfigMap, all its files together."""


def check(objects: Sequence[Manifest]) -> list[str]:
    """The faults of manifests, a line each; none if all would be taken."""
    return [
        f"{each['kind']} {each['metadata'].get('name')}: {fault}"
        for each in objects
        for rule in (*_ALL, *_OF_KIND.get(each["kind"], ()))
        for fault in rule(each)
    ]


def _named(each: Manifest) -> Iterator[str]:
    name = each["metadata"].get("name", "")
    if not names.is_object_name(name):
        yield f"the name {name!r} is none: lower-case letters, digits, `-` and `.`, 253 at most"


def _labelled(each: Manifest) -> Iterator[str]:
    for key, value in each["metadata"].get("labels", {}).items():
        if not names.is_label_key(key):
            yield f"the label {key!r} is none: letters, digits, `-`, `_` and `.`, after a domain/"
        if not names.is_label_value(value):
            yield (
                f"the label {key} cannot be {value!r}: letters, digits, `-`, `_` and `.`,"
                f" {names.LONGEST_LABEL} at most"
            )
    for key in each["metadata"].get("annotations", {}):
        if not names.is_label_key(key):
            yield f"the annotation {key!r} is none: letters, digits, `-`, `_`, `.`, after a domain/"


def _fits(each: Manifest) -> Iterator[str]:
    packed = each.get("binaryData", {})
    sizes = {name: len(text.encode()) for name, text in each.get("data", {}).items()}
    sizes |= {name: len(base64.b64decode(text)) for name, text in packed.items()}
    total = sum(sizes.values())
    if total > MOST_FILES:
        largest = max(sizes, key=lambda name: sizes[name])
        yield (
            f"its files have {total:,} bytes, {largest} {sizes[largest]:,} of them, and Kubernetes"
            f" takes {MOST_FILES:,}: put the code into the image and submit without it, or put what"
            " is large on the storage and name its path"
        )


def _short_name(job: Manifest) -> Iterator[str]:
    name = job["metadata"].get("name", "")
    if len(name) > names.LONGEST_NAME or not names.is_service_name(name):
        yield (
            f"KubeRay takes names of {names.LONGEST_NAME} characters at most, lower-case letters,"
            f" digits and `-`, a letter first: {name!r} is none"
        )


def _known_mode(job: Manifest) -> Iterator[str]:
    mode = _mode(job)
    if mode not in MODES:
        yield f"submissionMode {mode!r} is not known: take one of {', '.join(MODES)}"


def _time_to_live(job: Manifest) -> Iterator[str]:
    seconds = job["spec"].get("ttlSecondsAfterFinished", 0)
    if seconds < 0:
        yield f"ttlSecondsAfterFinished {seconds} is below 0"
    if seconds > 0 and not job["spec"].get("shutdownAfterJobFinishes"):
        yield f"ttlSecondsAfterFinished {seconds} needs shutdownAfterJobFinishes: true"


def _suspension(job: Manifest) -> Iterator[str]:
    if not job["spec"].get("suspend"):
        return
    if not job["spec"].get("shutdownAfterJobFinishes"):
        yield "suspend needs shutdownAfterJobFinishes: true"
    if job["spec"].get("clusterSelector"):
        yield "suspend does not go with a clusterSelector: the cluster is not the RayJob's"


def _one_way_of_deletion(job: Manifest) -> Iterator[str]:
    if not job["spec"].get("deletionStrategy", {}).get("deletionRules"):
        return
    for other in ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished"):
        if job["spec"].get(other):
            yield f"deletionStrategy.deletionRules does not go with {other}: leave one of them out"


def _retries(job: Manifest) -> Iterator[str]:
    limit = job["spec"].get("backoffLimit", 0)
    if limit < 0:
        yield f"backoffLimit {limit} is below 0"
    if limit > 0 and job["spec"].get("clusterSelector"):
        yield "backoffLimit does not go with a clusterSelector: a retry is a new cluster"
    if limit > 0 and _mode(job) == "InteractiveMode":
        yield "backoffLimit does not go with InteractiveMode: nobody would submit again"


def _deadlines(job: Manifest) -> Iterator[str]:
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if job["spec"].get(key, 1) <= 0:
            yield f"{key} {job['spec'][key]} is not above 0"


def _sidecar(job: Manifest) -> Iterator[str]:
    if _mode(job) != "SidecarMode":
        return
    for key in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
        if job["spec"].get(key):
            yield f"SidecarMode does not go with {key}: the submitter is a container of the head"
    policy = _cluster(job).get("headGroupSpec", {}).get("template", {}).get("spec", {})
    if policy.get("restartPolicy", "Never") != "Never":
        yield "SidecarMode needs restartPolicy Never in the head's pod, or none"


def _submitter_ends(job: Manifest) -> Iterator[str]:
    spec = job["spec"].get("submitterPodTemplate", {}).get("spec", {})
    policy = spec.get("restartPolicy", "Never")
    if policy not in ("Never", "OnFailure"):
        yield (
            f"the submitter's pod has restartPolicy {policy}, and Kubernetes' Job, which makes it,"
            " takes Never or OnFailure"
        )


def _one_mount_a_path(job: Manifest) -> Iterator[str]:
    for place, container in _containers(job):
        mounts = container.get("volumeMounts") or []
        paths = [each.get("mountPath", "").rstrip("/") for each in mounts]
        for path in sorted({each for each in paths if paths.count(each) > 1}):
            volumes = ", ".join(
                each["name"] for each in mounts if each["mountPath"].rstrip("/") == path
            )
            yield (
                f"{place}: {path} is mounted more than once (volumes {volumes}): give a secret"
                " another mount, or move storage.mount"
            )


def _has_a_cluster(job: Manifest) -> Iterator[str]:
    if not _cluster(job) and not job["spec"].get("clusterSelector"):
        yield "it has neither a rayClusterSpec nor a clusterSelector"


def _no_cluster_token(job: Manifest) -> Iterator[str]:
    if _cluster(job).get("authOptions", {}).get("enableK8sTokenAuth"):
        yield (
            "authOptions.enableK8sTokenAuth is refused for RayJobs, whose submitter has no token of"
            " Kubernetes: take mode: token alone"
        )


def _of_its_cluster(job: Manifest) -> Iterator[str]:
    cluster = _cluster(job)
    for rule in CLUSTER_RULES if cluster else ():
        yield from rule(cluster)


def _labelled_pods(job: Manifest) -> Iterator[str]:
    cluster = _cluster(job)
    groups = [cluster.get("headGroupSpec", {}), *cluster.get("workerGroupSpecs", [])]
    templates = [group.get("template", {}) for group in groups]
    for template in [*templates, job["spec"].get("submitterPodTemplate", {})]:
        yield from _labelled({"metadata": template.get("metadata", {})})


def _containers(job: Manifest) -> Iterator[tuple[str, Manifest]]:
    """What messages call a container, and the container; of all pods of a run."""
    cluster = _cluster(job)
    pods = {
        "the head": cluster.get("headGroupSpec", {}).get("template", {}),
        "the submitter": job["spec"].get("submitterPodTemplate", {}),
    }
    for group in cluster.get("workerGroupSpecs", []):
        pods[f"group {group.get('groupName')}"] = group.get("template", {})
    for place, template in pods.items():
        spec = template.get("spec", {})
        for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
            yield f"{place}, {container.get('name')}", container


def _mode(job: Manifest) -> str:
    mode: str = job["spec"].get("submissionMode", "K8sJobMode")
    return mode


def _cluster(job: Manifest) -> Manifest:
    cluster: Manifest = job["spec"].get("rayClusterSpec") or {}
    return cluster


_Rules = tuple[Callable[[Manifest], Iterator[str]], ...]
_ALL: _Rules = (_named, _labelled)
_OF_KIND: dict[str, _Rules] = {
    "ConfigMap": (_fits,),
    "RayJob": (
        _short_name,
        _known_mode,
        _time_to_live,
        _suspension,
        _one_way_of_deletion,
        _retries,
        _deadlines,
        _sidecar,
        _submitter_ends,
        _one_mount_a_path,
        _has_a_cluster,
        _no_cluster_token,
        _of_its_cluster,
        _labelled_pods,
        kueue_faults,
    ),
}
