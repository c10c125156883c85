"""What workers say to each other in a step, by the formulas of docs/scaling.md; no torch."""

from __future__ import annotations

from typing import NamedTuple

from tap_platform.config.job import JobConfig
from tap_platform.config.machines import NodeGroup
from tap_platform.estimate.state import FLOAT, model_size

SMALL_COLLECTIVES = 29
"""Of a forward and backward pass: 14 batch norms twice, and the number of regions."""
LATENCY = 50e-6
"""Seconds of a collective of a few kilobytes."""


class _Formula(NamedTuple):
    """How often a step moves all trained weights, or their gradients."""

    reduced: int = 0
    """By all-reduce, once a step."""
    reduced_each: int = 0
    """By all-reduce, once a micro-batch."""
    moved: int = 0
    """By all-gather, once a step."""
    moved_each: int = 0
    """By reduce-scatter and all-gather, once a micro-batch."""


_FORMULAS = {
    "ddp": _Formula(reduced=1),
    "zero_1": _Formula(reduced=1, moved=1),
    "zero_2": _Formula(reduced_each=1, moved=1),
    "zero_3": _Formula(moved_each=3),
    "fsdp": _Formula(moved_each=3),
}


def sent_bytes(job: JobConfig) -> int:
    """What one worker sends in a step, by rings; weights and gradients travel in float32."""
    workers, batches = job.scale.most_workers, job.accumulation
    formula = _FORMULAS[job.scale.strategy]
    times = 2 * (formula.reduced + batches * formula.reduced_each)
    times += formula.moved + batches * formula.moved_each
    return times * FLOAT * model_size(job).trained * (workers - 1) // workers


def communication_seconds(job: JobConfig, group: NodeGroup, pods: int) -> float | None:
    """Seconds of a step that collectives take, if none of them hides behind computation.

    A ring crosses a node once for each of its network cards, so that it runs at the smaller speed
    of a GPU's links and of the node's cards together.

    Returns:
        None if a link that is needed is not told.
    """
    if job.scale.most_workers == 1:
        return 0.0
    links = [group.nvlink_gbps] if pods == 1 else [group.network_gbps]
    if pods > 1 and group.nvlink_gbps:
        links.append(group.nvlink_gbps)
    if not all(links):
        return None
    speed = min(links) * 1e9 / 8
    return sent_bytes(job) / speed + SMALL_COLLECTIVES * LATENCY * job.accumulation
