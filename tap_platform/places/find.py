"""From what `--on` says to a place."""

from __future__ import annotations

import re

from tap_platform.config.kubernetes import QueueConfig
from tap_platform.config.load_profile import load_profile
from tap_platform.config.profile import KubernetesProfile, Profile, RayProfile
from tap_platform.config.secrets import secret_in, without_secret
from tap_platform.places.place import Place

_ADDRESS = re.compile(r"(ray|https?)://.+")


def find_place(on: str, queue: str | None = None) -> Place:
    """The place of a name.

    Args:
        on: `local`, the address of a Ray cluster (`http://head:8265`, `ray://head:10001`), or a
            profile's name or path.
        queue: the queue to wait in, instead of the profile's.

    Raises:
        ValueError: if there is no such profile, or it has no queues.
    """
    return place_of(*find_profile(on, queue))


def find_profile(on: str, queue: str | None = None) -> tuple[str, Profile | None]:
    """The name of a place, and its profile; a bare address has none.

    Args and errors are those of `find_place`.
    """
    if _ADDRESS.fullmatch(on):
        _refuse_queue(on, queue)
        return on, None
    name, profile = load_profile(on)
    return name, with_queue(name, profile, queue)


def place_of(name: str, profile: Profile | None) -> Place:
    """The place that a profile describes; without one, the name is a Ray cluster's address."""
    if profile is None:
        return _ray_cluster(name, name, None)
    if isinstance(profile, KubernetesProfile):
        from tap_platform.places.kubernetes.place import KubernetesPlace

        return KubernetesPlace(name, profile)
    if isinstance(profile, RayProfile):
        return _ray_cluster(name, profile.address, profile)
    from tap_platform.places.local import LocalPlace

    return LocalPlace(name, profile)


def _ray_cluster(name: str, address: str, profile: RayProfile | None) -> Place:
    from tap_platform.places.ray_jobs.place import RayJobsPlace

    return RayJobsPlace(name, address, profile)


def with_queue(name: str, profile: Profile, queue: str | None) -> Profile:
    """The profile with another queue of its system; of Kueue, where it names none.

    Raises:
        ValueError: if the place has no queues.
    """
    if queue is None:
        return profile
    _refuse_nameless(queue)
    if not isinstance(profile, KubernetesProfile):
        _refuse_queue(name, queue)
        return profile
    system = profile.queue.system if profile.queue else "kueue"
    return profile.replaced(queue=QueueConfig(system=system, name=queue))


def _refuse_nameless(queue: str) -> None:
    if not queue.strip():
        raise ValueError("--queue needs the name of a queue; without it, the profile's is taken")


def _refuse_queue(name: str, queue: str | None) -> None:
    if queue is not None:
        _refuse_nameless(queue)
        shown = without_secret(name) if secret_in(name) else name
        raise ValueError(
            f"--queue {queue}: {shown} has no queues; they are of Kubernetes: leave it out"
        )
