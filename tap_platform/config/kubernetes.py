"""What a Kubernetes site decides: names, queues, storage, secrets, patience."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from tap_platform.config.base import Section
from tap_platform.config.machines import DnsLabel
from tap_platform.config.pod_shape import pod_faults


class QueueConfig(Section):
    """The queue that a run waits in."""

    system: Literal["kueue", "volcano", "yunikorn", "kai"]
    """What schedules: `tap submit` writes its labels."""
    name: str = Field(min_length=1)
    """Of the queue, as the system knows it."""


class StorageConfig(Section):
    """Where run directories lie: one folder that every pod sees."""

    path: str = Field("/mnt/tap/runs", pattern=r"^/")
    """In pods, the `storage` of a job."""
    claim: str | None = None
    """PersistentVolumeClaim (ReadWriteMany) that is mounted at `mount`; null: `pod_patch` mounts
    something there."""
    mount: str = Field("/mnt/tap", pattern=r"^/")
    """Where the claim is mounted."""
    seen_here: str | None = None
    """The same folder as `path` where `tap` is called, such as `/nfs/tap/runs`; null: not seen."""
    mirror: str | None = None
    """URL that the files of run directories but for checkpoints are copied to while they change,
    such as `s3://bucket/runs`: `tap ps`, `tap logs` and `tap describe` read them there when the
    cluster is gone and `seen_here` is null."""


class SecretConfig(Section):
    """A Kubernetes Secret that pods see; it is named, never held."""

    name: DnsLabel
    """Of the Secret."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variable to key of the Secret; empty: every key is a variable."""
    mount: str | None = Field(None, pattern=r"^/")
    """Folder where its keys are files, instead of variables."""


class RedisConfig(Section):
    """The Redis that remembers what Ray's head knew, so that the head may die."""

    address: str
    """`redis://host:6379`."""
    password_secret: DnsLabel | None = None
    """Secret that holds its password."""
    password_key: str = "password"
    """Which of its keys."""


class PodPatches(Section):
    """Fragments of pod templates that are laid over ours: volumes, hostPath, init containers.

    Mappings are merged key by key; lists of things with a name (containers, volumes, environment)
    by that name; other lists are replaced.
    """

    head: dict[str, Any] = Field(default_factory=dict)
    """Of the head's pod: `{spec: {…}}`, `{metadata: {…}}`."""
    workers: dict[str, Any] = Field(default_factory=dict)
    """Of every worker's pod."""
    submitter: dict[str, Any] = Field(default_factory=dict)
    """Of the pod that hands the run to Ray."""

    @field_validator("head", "workers", "submitter")
    @classmethod
    def _has_the_shape_of_a_pod(cls, patch: dict[str, Any]) -> dict[str, Any]:
        if fault := next(pod_faults(patch), None):
            raise ValueError(fault)
        return patch


class LifetimeConfig(Section):
    """How long what a run made may last, and how often it is tried."""

    keep_seconds: int = Field(60, ge=0)
    """How long the cluster of an ended run stays, its GPUs with it, for whoever wants to look.
    Everything of the run lies in its storage."""
    retries: int = Field(2, ge=0)
    """New clusters that are tried when one is lost, or the driver fails; the run goes on from its
    checkpoint. What has no checkpoints (`tap data`, `tap eval`) is tried once, since it would fail
    again."""
    most_seconds: int | None = Field(None, gt=0)
    """After which an attempt is ended, whatever it does; each new cluster of `retries` has as long.
    Null: never."""
    start_seconds: int | None = Field(None, gt=0)
    """How long an attempt may wait for nodes before it fails; each new cluster of `retries` has as
    long. Null: as long as it takes."""
