"""From a job file to a job as it runs at a place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tap_platform.config.job import JobConfig
from tap_platform.config.kubernetes import StorageConfig
from tap_platform.config.load import (
    anchored_at,
    load_job,
    merge,
    parse_override,
    read_tree,
    validate_job,
)
from tap_platform.config.load_pipeline import is_pipeline
from tap_platform.config.profile import KubernetesProfile, LocalProfile, Profile


def resolve_job(spec: Path, overrides: Sequence[str], profile: Profile | None) -> JobConfig:
    """The job of a file with the place's storage, tracking server and mirror.

    Runs and data lie beside each other: a relative path, which here is one below the caller's
    folder, is one below the folder around the storage there.

    Args:
        spec: the job file.
        overrides: `key.path=value`, which go before the file.
        profile: of the place; None is a Ray cluster of which only the address is known.

    Raises:
        ValueError: if the file is refused, an override is the place's to say, or the place needs
            an absolute storage.
    """
    if is_pipeline(spec):
        raise ValueError(
            f"{spec} is a pipeline of several jobs, and one at a time is submitted: write each as a"
            " job file, whose init_from names the run before it"
        )
    if isinstance(profile, LocalProfile):
        return load_job(spec, overrides)
    changes: dict[str, Any] = {}
    for override in overrides:
        changes = merge(changes, parse_override(override))
    if profile is not None:
        changes = _laid_over(changes, _of_place(profile), profile)
    job = validate_job(merge(read_tree(spec), changes), where=str(spec))
    return anchored_at(job, str(_around(job.storage)))


def _of_place(profile: Profile) -> dict[str, Any]:
    """What the place decides of a job."""
    storage: StorageConfig = getattr(profile, "storage", StorageConfig())
    told: dict[str, Any] = {"storage": storage.path}
    if storage.mirror is not None:
        told["mirror"] = {"url": storage.mirror}
    if isinstance(profile, KubernetesProfile) and profile.tracking is not None:
        told["tracking"] = {"mlflow": {"uri": profile.tracking}}
    return told


def _laid_over(
    changes: Mapping[str, Any], of_place: Mapping[str, Any], profile: Profile
) -> dict[str, Any]:
    if "storage" in changes:
        raise ValueError(
            f"storage={changes['storage']}: the profile says where runs lie"
            f" ({of_place['storage']}); leave it out, or change storage.path of the profile"
            f" ({profile.place})"
        )
    # A tracking server or mirror that is named for this one run goes before the profile's.
    return merge(of_place, changes)


def _around(storage: str) -> PurePosixPath:
    path = PurePosixPath(storage)
    if not path.is_absolute():
        raise ValueError(
            f"the storage {storage} is no folder that all nodes of the cluster see: give one, such"
            " as storage=/mnt/tap/runs"
        )
    return path.parent
