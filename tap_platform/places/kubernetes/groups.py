"""The nodes that a submission takes."""

from __future__ import annotations

from tap_platform.config.machines import quantity_bytes
from tap_platform.config.profile import KubernetesProfile
from tap_platform.estimate.nodes import NodeShare, nodes_for
from tap_platform.places.place import Submission


def shares(submission: Submission, profile: KubernetesProfile) -> list[NodeShare]:
    """The pods of each group, the first choice first.

    Raises:
        ValueError: if the profile's nodes do not hold the job.
    """
    if submission.job is not None:
        return nodes_for(submission.job, profile)
    return [_whole_node(profile)]


def price_per_hour(submission: Submission, profile: KubernetesProfile) -> float:
    """What the run's machines cost at the most: the head's, and its share of the first group's.

    Groups that stand in for the first are not there as long as the first is.
    """
    first = shares(submission, profile)[0]
    part = first.memory_bytes_per_pod / quantity_bytes(first.group.memory)
    return profile.head.price_per_hour + first.pods_most * first.group.price_per_hour * part


def _whole_node(profile: KubernetesProfile) -> NodeShare:
    """One node of the first kind, for what does not train: it has no workers to count by."""
    group = profile.groups[0]
    gpus = group.gpu.count if group.gpu else 0
    return NodeShare(
        group=group,
        pods_least=1,
        pods_most=1,
        workers_per_pod=gpus or 1,
        gpus_per_pod=gpus,
        cpus_per_pod=group.cpus,
        memory_bytes_per_pod=quantity_bytes(group.memory),
    )
