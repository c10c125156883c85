"""Which nodes of a profile a job takes, and how much of each; no torch, no cluster."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from tap_platform.config.job import JobConfig
from tap_platform.config.machines import NodeGroup, quantity_bytes
from tap_platform.config.profile import KubernetesProfile, LocalProfile, Profile


class NodeShare(NamedTuple):
    """The pods of one group of nodes: each is a node of its own, or a part of one."""

    group: NodeGroup
    pods_least: int
    """Below which the run waits; 0 for a group that only stands in for another."""
    pods_most: int
    """At the most workers."""
    workers_per_pod: int
    """At the most."""
    gpus_per_pod: int
    """0: the workers compute on CPUs."""
    cpus_per_pod: int
    memory_bytes_per_pod: int

    def workers_of(self, job: JobConfig) -> int:
        """Workers of a job that there are at the most: an elastic one may find less room."""
        return min(job.scale.most_workers, self.pods_most * self.workers_per_pod)


class _Node(NamedTuple):
    """What one node of a group can do for a job."""

    group: NodeGroup
    workers: int
    """That it holds at once; 0: none."""
    on_gpus: bool

    @property
    def all_workers(self) -> int:
        return self.workers * self.group.most


def nodes_for(job: JobConfig, profile: Profile) -> list[NodeShare]:
    """The nodes that a job takes: those of the first group that holds all of its workers.

    Of an elastic job that no group holds at its most, the first that holds the fewest workers. When
    that group is spot and Ray's autoscaler adds nodes, the groups after it stand in for it.

    Raises:
        ValueError: if no group holds the workers, with what each of them lacks.
    """
    nodes = [_node(job, profile, group) for group in profile.groups]
    for workers in (job.scale.most_workers, job.scale.least_workers):
        for place, node in enumerate(nodes):
            if node.all_workers >= workers:
                return [_chosen(job, node), *_stand_ins(job, profile, nodes[place:])]
    lacks = "\n".join(f"  {_lack(job, node)}" for node in nodes)
    raise ValueError(f"{_wanted(job)} find no room on the nodes of the profile:\n{lacks}")


def cpus_of_worker(job: JobConfig) -> int:
    """CPUs that Ray reserves for one worker and the data tasks that read for it."""
    return job.scale.cpus_per_worker + job.data.reader_tasks


def _node(job: JobConfig, profile: Profile, group: NodeGroup) -> _Node:
    on_gpus = group.gpu is not None and job.scale.device != "cpu"
    if job.scale.device == "gpu" and not on_gpus:
        return _Node(group, 0, False)
    by_cpus = group.cpus // cpus_of_worker(job)
    if isinstance(profile, LocalProfile):
        # The CPUs of a Ray of our own are places in a queue, not cores.
        by_cpus = job.scale.most_workers
    by_gpus = group.gpu.count if on_gpus and group.gpu else by_cpus
    return _Node(group, min(by_cpus, by_gpus), on_gpus)


def _chosen(job: JobConfig, node: _Node) -> NodeShare:
    share = _share(job, node)
    least = max(ceil(job.scale.least_workers / share.workers_per_pod), node.group.least)
    return share._replace(pods_least=least, pods_most=max(least, share.pods_most))


def _stand_ins(job: JobConfig, profile: Profile, nodes: list[_Node]) -> list[NodeShare]:
    """What takes over from the first of these nodes when its owner takes it back."""
    first, *others = nodes
    if not (isinstance(profile, KubernetesProfile) and profile.autoscale and first.group.spot):
        return []
    return [_share(job, node) for node in others if node.workers and node.on_gpus == first.on_gpus]


def _share(job: JobConfig, node: _Node) -> NodeShare:
    """As few pods as hold the workers, all of one size; a pod that fills no node takes its part."""
    workers, group = job.scale.most_workers, node.group
    pods = min(ceil(workers / node.workers), group.most)
    per_pod = min(ceil(workers / pods), node.workers)
    # What a worker must have, though its part of the node is less than a whole CPU more.
    cpus = max(group.cpus * per_pod // node.workers, min(per_pod * cpus_of_worker(job), group.cpus))
    return NodeShare(
        group=group,
        pods_least=0,
        pods_most=pods,
        workers_per_pod=per_pod,
        gpus_per_pod=per_pod if node.on_gpus else 0,
        cpus_per_pod=cpus,
        memory_bytes_per_pod=quantity_bytes(group.memory) * per_pod // node.workers,
    )


def _wanted(job: JobConfig) -> str:
    workers = job.scale.least_workers
    each = {"gpu": " with a GPU each", "cpu": " on CPUs", "auto": ""}[job.scale.device]
    return f"{workers} workers{each} ({cpus_of_worker(job)} CPUs a worker, with its data tasks)"


def _lack(job: JobConfig, node: _Node) -> str:
    """What a group has too little of."""
    group, workers = node.group, job.scale.least_workers
    if job.scale.device == "gpu" and group.gpu is None:
        return f"group {group.name} has no GPUs: set scale.device=cpu to train on its CPUs"
    if not node.workers:
        return (
            f"group {group.name} has nodes of {group.cpus} CPUs: lower scale.cpus_per_worker or"
            " data.reader_tasks"
        )
    kind = group.gpu.type if node.on_gpus and group.gpu else "CPU"
    what = f"{kind} GPUs" if node.on_gpus else "workers"
    if node.on_gpus and group.gpu and node.workers < group.gpu.count:
        what = f"workers ({group.cpus} CPUs a node hold no more, of {group.gpu.count} GPUs)"
    return (
        f"group {group.name} has {group.most} nodes x {node.workers} = {node.all_workers} {what},"
        f" the job wants {workers}: lower scale.workers, or raise most of the group"
    )
