"""What the pods of a run share: who they are, where they land, what they may do."""

from __future__ import annotations

from typing import Any

from tap_platform.config.machines import Placement, TopologySpread
from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes import names
from tap_platform.places.place import Submission

CONTAINER_SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""What Kubernetes' restricted standard asks of a container, and a root that nobody writes to."""


def node_spec(
    submission: Submission,
    profile: KubernetesProfile,
    placement: Placement,
    same: dict[str, str],
    ends_within: int,
) -> dict[str, Any]:
    """Of a node of Ray.

    Args:
        submission: the run.
        profile: where it goes.
        placement: where the node may land.
        same: labels of those of the run that are shared out over zones or racks.
        ends_within: seconds from the notice that it is to end.
    """
    alike = {names.RUN: names.label_value(submission.run), **same}
    spread = [_spread(each, alike) for each in placement.topology_spread]
    return {
        **any_spec(profile, placement),
        "serviceAccountName": profile.service_account,
        "terminationGracePeriodSeconds": ends_within,
        **({"topologySpreadConstraints": spread} if spread else {}),
    }


def any_spec(profile: KubernetesProfile, placement: Placement) -> dict[str, Any]:
    """Of any pod: it is not root, and has no token of Kubernetes."""
    tolerations = [each.model_dump(exclude_none=True) for each in placement.tolerations]
    pull = [{"name": name} for name in profile.image_pull_secrets]
    spec = {
        # A node of Ray that ended is a new pod, which finds nothing of the old one.
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        # Else the addresses of all services of the namespace become variables, RAY_… among them.
        "enableServiceLinks": False,
        "securityContext": _pod_security(profile.run_as_user),
        "imagePullSecrets": pull,
        "priorityClassName": profile.priority,
        "nodeSelector": dict(placement.node_selector),
        "tolerations": tolerations,
    }
    return {key: value for key, value in spec.items() if value not in (None, [], {})}


def _pod_security(user: int) -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        # A storage of millions of files is not walked through at the start of every pod.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _spread(spread: TopologySpread, alike: dict[str, str]) -> dict[str, Any]:
    return {
        "topologyKey": spread.topology_key,
        "maxSkew": spread.max_skew,
        "whenUnsatisfiable": spread.when_unsatisfiable,
        "labelSelector": {"matchLabels": alike},
    }


def fixed(resources: dict[str, str]) -> dict[str, Any]:
    """Requests that are the limits: what a pod has is its own, and it is the last to be evicted."""
    return {"requests": dict(resources), "limits": dict(resources)}
