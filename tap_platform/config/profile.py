"""A profile: a place where jobs run, its machines, and what they cost."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tap_platform.config.base import Section
from tap_platform.config.kubernetes import (
    LifetimeConfig,
    PodPatches,
    QueueConfig,
    RedisConfig,
    SecretConfig,
    StorageConfig,
)
from tap_platform.config.machines import DnsLabel, HeadConfig, NodeGroup

_IMAGE = re.compile(r"[a-z0-9][\w.\-/:]*?(:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})")


class MachineProfile(Section):
    """What every place has: machines."""

    description: str = ""
    """For people."""
    currency: str = "USD"
    """Of prices."""
    mfu: float = Field(0.3, gt=0, le=1)
    """Share of its GPUs' peak that a step is expected to reach: what planned hours and costs rest
    on. A measured one makes them true."""
    groups: tuple[NodeGroup, ...] = Field(min_length=1)
    """Kinds of nodes, the first choice first; those that follow take over when it has none."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [group.name for group in self.groups]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"groups: {', '.join(sorted(twice))} is there twice")
        return self


class LocalProfile(MachineProfile):
    """This computer, with a Ray of the run's own."""

    place: Literal["local"] = "local"
    """This computer."""


class RayProfile(MachineProfile):
    """A Ray cluster that is there already, through its Jobs API."""

    place: Literal["ray"]
    """A Ray cluster."""
    address: str = Field(pattern=r"^(https?|ray)://")
    """Of its dashboard (`http://head:8265`), or of its client port (`ray://head:10001`)."""
    storage: StorageConfig = StorageConfig()
    """Where runs lie; `path` is a folder that all nodes see."""


class KubernetesProfile(MachineProfile):
    """A namespace of a Kubernetes cluster with KubeRay."""

    place: Literal["kubernetes"]
    """KubeRay."""
    context: str | None = None
    """Of the kube config; null: the current one."""
    namespace: DnsLabel = "tap"
    """Where everything is made."""
    image: str
    """Of all pods, with a tag or a digest."""
    image_pull_secrets: tuple[DnsLabel, ...] = ()
    """Secrets of the registry."""
    ray_version: str = "2.60.0"
    """Of the image."""
    service_account: DnsLabel = "tap-run"
    """Of head and workers; its token is mounted in none of them but where Ray's autoscaler
    needs it, in the head."""
    queue: QueueConfig | None = None
    """Where runs wait for room; null: Kubernetes takes them as they come."""
    priority: DnsLabel | None = None
    """PriorityClass of the pods."""
    storage: StorageConfig = StorageConfig()
    """Where runs lie."""
    tracking: str | None = None
    """Address of the MLflow server, as pods reach it; null leaves the job's."""
    secrets: tuple[SecretConfig, ...] = ()
    """Secrets that pods see: keys of stores and trackers."""
    head: HeadConfig = HeadConfig()
    """The head's node."""
    redis: RedisConfig | None = None
    """Fault tolerance of the head; null: a lost head is a new cluster, from the checkpoint."""
    autoscale: bool = False
    """Whether Ray adds and removes nodes (autoscaler v2): for elastic jobs and fallbacks."""
    idle_seconds: int = Field(60, gt=0)
    """After which the autoscaler gives an idle node back."""
    lifetime: LifetimeConfig = LifetimeConfig()
    """How long things last, and how often they are tried."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of everything that is made, such as `team: vision`."""
    run_as_user: int = Field(1000, gt=0)
    """User and group of all processes in pods."""
    pod_patch: PodPatches = PodPatches()
    """What this site adds to pods."""

    @model_validator(mode="after")
    def _image_is_named(self) -> Self:
        if not _IMAGE.fullmatch(self.image):
            raise ValueError(
                f"image {self.image!r} has no tag or digest: what runs would change without notice;"
                " write name:tag or name@sha256:…"
            )
        if self.image.endswith(":latest"):
            raise ValueError(f"image {self.image!r}: `latest` changes without notice: name a tag")
        return self


Profile = Annotated[LocalProfile | RayProfile | KubernetesProfile, Field(discriminator="place")]
