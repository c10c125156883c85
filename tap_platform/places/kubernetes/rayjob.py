"""The RayJob of a run: KubeRay makes its cluster, hands the command to it and cleans up."""

from __future__ import annotations

import shlex
from typing import Any

from tap_platform.config.kubernetes import LifetimeConfig
from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes import names
from tap_platform.places.kubernetes.pods import submitter_template
from tap_platform.places.kubernetes.queueing import queue_labels, starts_suspended
from tap_platform.places.kubernetes.ray_cluster import cluster_spec
from tap_platform.places.kubernetes.volumes import FILES
from tap_platform.places.place import Submission

CODE = "code.zip"
_SUBMITTER_RETRIES = 10
"""A submitter that is evicted takes up the logs again, as often as may be in weeks of training."""


def ray_job(submission: Submission, profile: KubernetesProfile, place: str) -> dict[str, Any]:
    """The manifest.

    Args:
        submission: the run.
        profile: where it goes.
        place: the profile's name.

    Raises:
        ValueError: if the profile's nodes do not hold the job.
    """
    labels = {**names.labels(submission, profile), **queue_labels(profile, submission.run)}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": names.object_name(submission.run),
            "namespace": profile.namespace,
            "labels": labels,
            "annotations": names.notes(submission, profile, place),
        },
        "spec": {
            "submissionMode": "K8sJobMode",
            "entrypoint": entry_point(submission.command),
            **_code(submission),
            **({"suspend": True} if starts_suspended(profile) else {}),
            **_lifetime(submission, profile.lifetime),
            "submitterConfig": {"backoffLimit": _SUBMITTER_RETRIES},
            "submitterPodTemplate": submitter_template(submission, profile),
            "rayClusterSpec": cluster_spec(submission, profile),
        },
    }


def entry_point(command: tuple[str, ...]) -> str:
    """A command as the submitter's shell takes it, through Kubernetes, which reads `$` too."""
    return shlex.join(command).replace("$", "$$")


def _code(submission: Submission) -> dict[str, str]:
    """The caller's code is unpacked on every node, where it comes before the image's."""
    return {"runtimeEnvYAML": f"working_dir: {FILES}/{CODE}\n"} if submission.code else {}


def _lifetime(submission: Submission, lifetime: LifetimeConfig) -> dict[str, Any]:
    """How long it lasts. Only what has a job goes on from a checkpoint when it is tried again."""
    limits = {
        "activeDeadlineSeconds": lifetime.most_seconds,
        "preRunningDeadlineSeconds": lifetime.start_seconds,
    }
    return {
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": lifetime.keep_seconds,
        "backoffLimit": lifetime.retries if submission.job is not None else 0,
        **{key: seconds for key, seconds in limits.items() if seconds is not None},
    }
