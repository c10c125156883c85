"""How many trials find room side by side, so that none waits for what another holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tap_platform.config.job import JobConfig
from tap_platform.config.sweep import Population, SweepConfig
from tap_platform.estimate.nodes import cpus_of_worker


class NodeRoom(NamedTuple):
    """What a node has for workers."""

    cpus: int
    gpus: int


def fitting(job: JobConfig, nodes: Sequence[NodeRoom], *, on_gpus: bool) -> int:
    """How many such jobs the nodes take at once, each with all its workers and data tasks.

    A worker counts with the data tasks that read for it, on one node: what is left over in several
    nodes is not counted, so that fewer trials run rather than one waits.
    """
    workers = 0
    for node in nodes:
        room = node.cpus // cpus_of_worker(job)
        workers += min(room, node.gpus) if on_gpus else room
    return workers // job.scale.most_workers


def at_once(
    config: SweepConfig, jobs: Sequence[JobConfig], nodes: Sequence[NodeRoom], total: int | None
) -> int:
    """How many trials train side by side.

    Args:
        config: the sweep.
        jobs: those of its trials, as far as they are known: the largest counts.
        nodes: that are there.
        total: how many trials there will be, if that is known.

    Raises:
        ValueError: if a population does not find room.
    """
    has_gpus = any(node.gpus for node in nodes)
    room = min(fitting(job, nodes, on_gpus=has_gpus and job.scale.device != "cpu") for job in jobs)
    most = max(1, room)  # where even one is too large, its own start says why
    wanted = min(each for each in (config.at_once, total, most) if each is not None)
    check_population(config, total, wanted)
    return wanted


def check_population(config: SweepConfig, total: int | None, together: int) -> None:
    """Refuse a population that does not train side by side.

    Raises:
        ValueError: if it has more trials than train together.
    """
    if isinstance(config.scheduler, Population) and total is not None and together < total:
        raise ValueError(
            f"scheduler pbt trains its {total} trials side by side, and there is room for"
            f" {together} (at_once: {config.at_once or 'as many'}): lower budget.trials, or the"
            " workers of a trial"
        )
