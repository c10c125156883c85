"""How the objects of a run are named and labelled, so that they are found again."""

from __future__ import annotations

import re

from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.place import Submission

LONGEST_NAME = 47
"""Characters: KubeRay makes longer names from a RayJob's, which Kubernetes ends at 63."""
LONGEST_LABEL = 63
_TAIL = len("20261121-153000-a1b2")

NAME = "app.kubernetes.io/name"
MANAGED_BY = "app.kubernetes.io/managed-by"
RUN = "tap-platform/run"
PROJECT = "tap-platform/project"
KIND = "tap-platform/kind"
RUN_DIRECTORY = "tap-platform/run-directory"
MIRROR = "tap-platform/mirror"
IDENTITY = "tap-platform/identity"
SUBMITTED_BY = "tap-platform/submitted-by"
PROFILE = "tap-platform/profile"

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)?", re.ASCII)


def object_name(run: str) -> str:
    """Name of a run's RayJob: lower-case letters, digits and `-`, 47 characters at most.

    A longer name loses its middle: the end, which makes a run's name unique, stays.

    Raises:
        ValueError: if the run's name has no letter or digit.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    if not plain:
        raise ValueError(f"run {run!r} has no letter or digit to name a Kubernetes object after")
    return _cut(plain if plain[0].isalpha() else f"run-{plain}", LONGEST_NAME)


def files_name(run: str) -> str:
    """Name of the ConfigMap with a run's files."""
    return f"{object_name(run)}-files"


def label_value(text: str) -> str:
    """A text as the value of a label: 63 characters at most, its end kept."""
    return _cut(re.sub(r"[^A-Za-z0-9._-]", "-", text).strip("._-"), LONGEST_LABEL)


def labels(submission: Submission, profile: KubernetesProfile) -> dict[str, str]:
    """Labels of every object that is made for a run: the profile's, and those it is found by."""
    return {
        **profile.labels,
        NAME: "tap-platform",
        MANAGED_BY: "tap",
        RUN: label_value(submission.run),
        PROJECT: label_value(submission.project),
        KIND: submission.kind,
    }


def pod_labels(submission: Submission, profile: KubernetesProfile) -> dict[str, str]:
    """Labels of a run's pods: KubeRay's services find them by a name that it gives them itself."""
    return {key: each for key, each in labels(submission, profile).items() if key != NAME}


def notes(submission: Submission, profile: KubernetesProfile, place: str) -> dict[str, str]:
    """Annotations of a run's RayJob: what is asked for, and longer than a label may be."""
    mirror = profile.storage.mirror
    told = {
        RUN_DIRECTORY: run_directory(submission, profile),
        MIRROR: mirror and f"{mirror.rstrip('/')}/{submission.lies}",
        IDENTITY: submission.job and submission.job.identity,
        SUBMITTED_BY: submission.by,
        PROFILE: place,
    }
    return {key: text for key, text in told.items() if text}


def run_directory(submission: Submission, profile: KubernetesProfile) -> str:
    """The run directory, as pods see it."""
    return f"{profile.storage.path.rstrip('/')}/{submission.lies}"


def is_service_name(name: str) -> bool:
    """Whether a name begins with a letter and has lower-case letters, digits and `-` only."""
    return _DNS_1035.fullmatch(name) is not None


def is_object_name(name: str) -> bool:
    """Whether Kubernetes takes a name for most of its objects."""
    return len(name) <= 253 and _SUBDOMAIN.fullmatch(name) is not None


def is_label_value(value: str) -> bool:
    """Whether Kubernetes takes a text as the value of a label."""
    return len(value) <= LONGEST_LABEL and _LABEL.fullmatch(value) is not None


def is_label_key(key: str) -> bool:
    """Whether Kubernetes takes a text as a label's or annotation's key: `example.com/team`."""
    prefix, slash, name = key.rpartition("/")
    return bool(name) and is_label_value(name) and (is_object_name(prefix) if slash else True)


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    tail = text[-_TAIL:].lstrip("._-")
    return f"{text[: length - len(tail) - 1].rstrip('._-')}-{tail}"
