"""All objects of a run, as Kubernetes takes them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes import names
from tap_platform.places.kubernetes.groups import shares
from tap_platform.places.kubernetes.rayjob import CODE, ray_job
from tap_platform.places.kubernetes.rules import check
from tap_platform.places.place import Submission

BY_HAND = """\
# What `tap submit` makes. By hand, `kubectl create --filename -` or `kubectl apply --server-side
# --filename -` takes it: plain `apply` keeps a copy in an annotation, which is too short for code.
# `tap submit` also makes the RayJob the owner of the ConfigMap and the PodDisruptionBudget, so that
# they go with it. Made by hand they stay: remove all with `kubectl delete --filename -`.
"""
"""On top of manifests that are printed."""


def render(
    submission: Submission, profile: KubernetesProfile, place: str = ""
) -> list[dict[str, Any]]:
    """The manifests of a run in the order in which they are made: the RayJob last.

    Args:
        submission: the run.
        profile: where it goes.
        place: the profile's name.

    Raises:
        ValueError: if the profile's nodes do not hold the job, or KubeRay or Kubernetes would
            refuse an object; the message has a line for every fault.
    """
    objects = [
        _files(submission, profile),
        _budget(submission, profile),
        ray_job(submission, profile, place),
    ]
    if faults := check(objects):
        raise ValueError("\n".join(faults))
    return objects


def to_yaml(objects: Sequence[Mapping[str, Any]]) -> str:
    """Manifests as one YAML text: keys in their order, texts of several lines as blocks.

    Comments on top say what those who apply it by hand have to know.
    """
    return BY_HAND + yaml.dump_all(
        objects,
        Dumper=_Dumper,
        sort_keys=False,
        explicit_start=True,
        allow_unicode=True,
        width=100,
    )


def _files(submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    """What the command reads. The API server refuses more than a mebibyte, as `check` does."""
    code = submission.code
    packed = {CODE: base64.b64encode(code.zip).decode()} if code else None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(names.files_name(submission.run), submission, profile),
        "immutable": True,
        "data": dict(submission.files),
        **({"binaryData": packed} if packed else {}),
    }


def _budget(submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    """Whoever drains nodes leaves the run what it needs; what it has beyond may go.

    The pods have a controller that Kubernetes does not know, so that only a whole number holds.
    """
    needed = 1 + sum(share.pods_least for share in shares(submission, profile))
    of_ray = {"key": "ray.io/node-type", "operator": "In", "values": ["head", "worker"]}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(names.object_name(submission.run), submission, profile),
        "spec": {
            "minAvailable": needed,
            "selector": {
                "matchLabels": {names.RUN: names.label_value(submission.run)},
                "matchExpressions": [of_ray],
            },
        },
    }


def _metadata(name: str, submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    labels = names.labels(submission, profile)
    return {"name": name, "namespace": profile.namespace, "labels": labels}


class _Dumper(yaml.SafeDumper):
    """Without anchors, which nobody reads, and with lists under their keys."""

    def ignore_aliases(self, data: Any) -> bool:
        """All: a section that stands twice is written twice."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Lists stand further right than their keys."""
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
