"""The kinds of objects that are asked for, and how Kubernetes calls them."""

from __future__ import annotations

from typing import NamedTuple


class Resource(NamedTuple):
    """A kind of object of a namespace."""

    group: str
    """Empty for Kubernetes' own core."""
    version: str
    plural: str
    kind: str
    snake: str = ""
    """Name in the client's methods, of core kinds."""

    @property
    def people(self) -> str:
        """As a role names it: `rayjobs.ray.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


RAY_JOBS = Resource("ray.io", "v1", "rayjobs", "RayJob")
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", "config_map")
PODS = Resource("", "v1", "pods", "Pod", "pod")
EVENTS = Resource("", "v1", "events", "Event", "event")
SECRETS = Resource("", "v1", "secrets", "Secret", "secret")
CLAIMS = Resource(
    "", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "persistent_volume_claim"
)
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", "service_account")
LOCAL_QUEUES = Resource("kueue.x-k8s.io", "v1beta2", "localqueues", "LocalQueue")
WORKLOADS = Resource("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")

MADE = {each.kind: each for each in (CONFIG_MAPS, BUDGETS, RAY_JOBS)}
"""What is made for a run, by kind."""
