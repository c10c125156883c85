"""What the pods of a run see beside the read-only file system of their image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes.environment import CACHE, HOME, SCRATCH
from tap_platform.places.kubernetes.names import files_name
from tap_platform.places.place import Submission

FILES = "/etc/tap"
"""Folder of a submission's files."""
_API_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # a folder


class Volume(NamedTuple):
    """A volume of a pod and where its containers find it."""

    name: str
    source: dict[str, Any]
    path: str
    read_only: bool = False


def writable() -> list[Volume]:
    """Folders that live as long as their pod, with limits that keep a node's disk alive."""
    return [
        Volume("tmp", {"emptyDir": {"sizeLimit": "100Gi"}}, SCRATCH),
        Volume("home", {"emptyDir": {"sizeLimit": "20Gi"}}, HOME),
        Volume("cache", {"emptyDir": {"sizeLimit": "200Gi"}}, CACHE),
    ]


def files(submission: Submission) -> Volume:
    """The submission's files."""
    source = {"configMap": {"name": files_name(submission.run)}}
    return Volume("files", source, FILES, read_only=True)


def storage(profile: KubernetesProfile) -> list[Volume]:
    """Where run directories lie; none where `pod_patch` mounts it.

    Raises:
        ValueError: if run directories would not lie on the claim.
    """
    claim, mount, path = profile.storage.claim, profile.storage.mount, profile.storage.path
    if claim is None:
        return []
    if not PurePosixPath(path).is_relative_to(mount):
        raise ValueError(
            f"storage.path {path} is not below storage.mount {mount}, where the claim {claim} is"
            " mounted: runs would be written to the pods' read-only root; move one of the two"
        )
    return [Volume("storage", {"persistentVolumeClaim": {"claimName": claim}}, mount)]


def secrets(profile: KubernetesProfile) -> list[Volume]:
    """Secrets that are files; their group may read them, and nobody else."""
    mounted = [(secret.name, secret.mount) for secret in profile.secrets if secret.mount]
    return [
        Volume(
            f"secret-{position}",
            {"secret": {"secretName": name, "defaultMode": 0o440}},
            path,
            read_only=True,
        )
        for position, (name, path) in enumerate(mounted)
    ]


def api_token() -> Volume:
    """What the autoscaler says who it is by. Other containers of its pod do not see it."""
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {
            "configMap": {
                "name": "kube-root-ca.crt",
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
            }
        },
        {
            "downwardAPI": {
                "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]
            }
        },
    ]
    projected = {"projected": {"sources": sources, "defaultMode": 0o440}}
    return Volume("api-token", projected, _API_TOKEN, read_only=True)


def volumes(found: Iterable[Volume]) -> list[dict[str, Any]]:
    """As a pod names them."""
    return [{"name": volume.name, **volume.source} for volume in found]


def mounts(found: Iterable[Volume]) -> list[dict[str, Any]]:
    """As a container names them."""
    return [
        {
            "name": volume.name,
            "mountPath": volume.path,
            **({"readOnly": True} if volume.read_only else {}),
        }
        for volume in found
    ]
