"""Whether what a run needs is in its namespace, before anything is made there."""

from __future__ import annotations

from collections.abc import Iterator

from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes.client import Cluster
from tap_platform.places.kubernetes.errors import ForbiddenError, NotThereError
from tap_platform.places.kubernetes.queue_status import queue_faults
from tap_platform.places.kubernetes.resources import ACCOUNTS, CLAIMS, SECRETS, Resource


def check_presence(cluster: Cluster, profile: KubernetesProfile) -> None:
    """Refuse what would wait for ever for something that is not there.

    What one may not ask for is taken to be there; if it is not, the run's state says so.

    Raises:
        ValueError: with a line for each thing that is missing.
    """
    faults = [*_missing(cluster, profile), *_lacking_keys(cluster, profile)]
    if profile.queue is not None and profile.queue.system == "kueue":
        faults += queue_faults(cluster, profile.queue.name)
    if faults:
        raise ValueError("\n".join(f"{cluster.where}: {fault}" for fault in faults))


def _missing(cluster: Cluster, profile: KubernetesProfile) -> Iterator[str]:
    for resource, name, said_by in _needed(profile):
        try:
            cluster.get(resource, name)
        except ForbiddenError:
            continue
        except NotThereError:
            yield f"there is no {resource.kind} {name!r} ({said_by} of the profile): make it first"


def _needed(profile: KubernetesProfile) -> Iterator[tuple[Resource, str, str]]:
    for secret in profile.secrets:
        yield SECRETS, secret.name, "secrets"
    for name in profile.image_pull_secrets:
        yield SECRETS, name, "image_pull_secrets"
    if profile.redis is not None and profile.redis.password_secret is not None:
        yield SECRETS, profile.redis.password_secret, "redis.password_secret"
    if profile.storage.claim is not None:
        yield CLAIMS, profile.storage.claim, "storage.claim"
    yield ACCOUNTS, profile.service_account, "service_account"


def _lacking_keys(cluster: Cluster, profile: KubernetesProfile) -> Iterator[str]:
    """Keys that a secret lacks; the values are not looked at."""
    for secret in profile.secrets:
        try:
            there = cluster.get(SECRETS, secret.name).get("data") or {}
        except (ForbiddenError, NotThereError):
            continue
        for key in sorted(set(secret.environment.values()) - set(there)):
            known = ", ".join(sorted(there)) or "none"
            yield f"the Secret {secret.name!r} has no key {key!r} (secrets of the profile): {known}"
