"""The variables of the containers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from tap_platform.config.machines import Placement
from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes.groups import price_per_hour, shares
from tap_platform.places.kubernetes.names import run_directory
from tap_platform.places.place import Submission
from tap_platform.runs.prices import CURRENCY, OWNER, PRICE

HOME = "/home/tap"
CACHE = "/var/cache/tap"
SCRATCH = "/tmp"  # where Ray keeps its session
GRACE_SECONDS = 30.0
"""Of a submission without a job."""

_FOLDERS = {
    "HOME": HOME,
    # Users without an entry in /etc/passwd have no name, which torch's compiler asks for.
    "USER": "tap",
    "TAP_CACHE": CACHE,
    "XDG_CACHE_HOME": f"{HOME}/.cache",
    "MPLCONFIGDIR": f"{HOME}/.config/matplotlib",
    "NUMBA_CACHE_DIR": f"{HOME}/.cache/numba",
    "TRITON_CACHE_DIR": f"{HOME}/.cache/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{HOME}/.cache/torchinductor",
}
"""Where programs write that would else write beside themselves: their root is read-only."""
_PROGRAMS = {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def grace_seconds(submission: Submission) -> int:
    """How long a worker has to write its last checkpoint, in whole seconds."""
    job = submission.job
    return ceil(job.scale.grace_seconds if job else GRACE_SECONDS)


def stop_seconds(submission: Submission) -> int:
    """How long a driver that is asked to end may take: the checkpoint, and its last records."""
    job = submission.job
    return grace_seconds(submission) + ceil(job.last_records_seconds if job else 0) + 10


def pre_stop_seconds(submission: Submission) -> int:
    """How long the hook that runs before a worker's pod is ended may wait for that checkpoint.

    The head's may wait for all that the driver does: `stop_seconds`.
    """
    return grace_seconds(submission) + 30


def termination_seconds(pre_stop: int) -> int:
    """How long a pod has from its notice to its end: its hook, and Ray after it."""
    return pre_stop + 30


def head_environment(submission: Submission, profile: KubernetesProfile) -> list[dict[str, Any]]:
    """The variables of the head, where the driver lives: what tells it of an autoscaler too."""
    start = profile.lifetime.start_seconds
    told = {
        "TAP_PRE_STOP_SECONDS": str(stop_seconds(submission)),
        **({"TAP_AUTOSCALED": "1"} if profile.autoscale else {}),
        **({"TAP_START_SECONDS": str(start)} if profile.autoscale and start else {}),
    }
    return _of_node(submission, profile, profile.head, told)


def worker_environment(
    submission: Submission, profile: KubernetesProfile, placement: Placement
) -> list[dict[str, Any]]:
    """The variables of a worker."""
    told = {"TAP_PRE_STOP_SECONDS": str(pre_stop_seconds(submission))}
    return _of_node(submission, profile, placement, told)


def _of_node(
    submission: Submission,
    profile: KubernetesProfile,
    placement: Placement,
    own: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The variables of a node of Ray: folders, what leaving takes, the site's and its secrets."""
    price = price_per_hour(submission, profile)
    gpu = shares(submission, profile)[0].group.gpu
    told = {
        **_FOLDERS,
        **_PROGRAMS,
        "TAP_RUN_DIRECTORY": run_directory(submission, profile),
        **own,
        "RAY_JOB_STOP_WAIT_TIME_S": str(stop_seconds(submission)),
        OWNER: submission.by,
        # For the cost and the MFU that are told while the run goes on, and for the bill.
        **({PRICE: f"{price:g}", CURRENCY: profile.currency} if price else {}),
        **({"TAP_GPU_TFLOPS": f"{gpu.tflops:g}"} if gpu else {}),
        **placement.environment,
    }
    return [*_plain(told), *_of_secrets(profile)]


def helper_environment() -> list[dict[str, Any]]:
    """The variables of the containers beside Ray's: the submitter, the autoscaler."""
    return _plain({**_FOLDERS, **_PROGRAMS})


def environment_sources(profile: KubernetesProfile) -> list[dict[str, Any]]:
    """Secrets of which every key is a variable."""
    return [
        {"secretRef": {"name": secret.name}}
        for secret in profile.secrets
        if not secret.environment and secret.mount is None
    ]


def _of_secrets(profile: KubernetesProfile) -> list[dict[str, Any]]:
    return [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}}
        for secret in profile.secrets
        for variable, key in secret.environment.items()
    ]


def _plain(variables: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in variables.items()]
