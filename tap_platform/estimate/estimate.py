"""Everything that `tap plan --on PROFILE` tells of a job, without a GPU, a cluster or a network."""

from __future__ import annotations

from collections.abc import Sequence

from tap_platform.config.job import JobConfig
from tap_platform.config.profile import Profile
from tap_platform.estimate.assumptions import assumptions_of
from tap_platform.estimate.bill import bill_of
from tap_platform.estimate.checkpoint_size import checkpoint_size
from tap_platform.estimate.concerns import concerns_of
from tap_platform.estimate.feed import feed_of
from tap_platform.estimate.figures import Activations, Estimate, Memory, NodesTaken, Work
from tap_platform.estimate.memory import memory_of
from tap_platform.estimate.nodes import NodeShare, nodes_for
from tap_platform.estimate.pace import Measured, as_measured, pace_of
from tap_platform.estimate.traced_step import TracedStep, trace_step
from tap_platform.estimate.ways import ways_that_fit


def estimate(job: JobConfig, profile: Profile, name: str, like: Measured | None = None) -> Estimate:
    """Work out what a job takes, at the most workers that it may have and that find room.

    Torch is imported here; seconds pass for a large model.

    Args:
        job: the job.
        profile: where it is to run.
        name: the profile's.
        like: a measured run to take the speed of.

    Raises:
        ValueError: if no group of the profile holds the job's workers.
    """
    shares = nodes_for(job, profile)
    first = shares[0]
    wanted, job = job, _as_there_is_room(job, first)
    steps = Steps(shares)
    traced, memory = steps.traced(job), steps.memory(job)
    flops = traced.flops * job.accumulation
    pace = pace_of(job, profile, first, flops)
    if like is not None:
        ratio = flops / (steps.traced(like.job).flops * like.job.accumulation)
        pace = as_measured(job, pace, like, ratio)
    feed = feed_of(job, first, pace.step_seconds)
    return Estimate(
        profile=name,
        description=profile.description,
        nodes=_nodes(shares),
        memory=memory,
        activations=steps.activations(job),
        work=Work(flops_per_step=flops * job.scale.most_workers, flops_per_worker=flops),
        pace=pace,
        bill=bill_of(profile, shares, pace.hours),
        feed=feed,
        checkpoint=checkpoint_size(job),
        ways=[] if memory.fits else ways_that_fit(job, steps.memory),
        warnings=concerns_of(job, first, memory, feed),
        assumptions=assumptions_of(wanted, first, memory),
    )


def _as_there_is_room(job: JobConfig, share: NodeShare) -> JobConfig:
    """The job at the workers that the nodes hold; elastic ones may ask for more."""
    workers = share.workers_of(job)
    return job if workers == job.scale.most_workers else job.on(workers)


class Steps:
    """A job's step under several settings, on the pods of a job; what is alike is traced once."""

    def __init__(self, shares: Sequence[NodeShare]) -> None:
        self.shares = shares
        self.on_gpu = shares[0].gpus_per_pod > 0
        self._known: dict[tuple[object, ...], TracedStep] = {}

    def traced(self, job: JobConfig) -> TracedStep:
        """A micro-batch of a job."""
        model, recipe = job.model.model_dump_json(), job.recipe.model_dump_json()
        half = job.training.precision != "fp32"
        key = (model, recipe, job.micro_batch, job.data.regions_per_image, half)
        if key not in self._known:
            self._known[key] = trace_step(job, self.on_gpu)
        return self._known[key]

    def memory(self, job: JobConfig) -> Memory:
        """The memory of one worker, and what there is for it."""
        return memory_of(job, self.traced(job), self.on_gpu, self._available())

    def activations(self, job: JobConfig) -> Activations:
        """With and without recomputation."""
        kept, recomputed = (
            self.traced(job.replaced(model=job.model.replaced(activation_checkpointing=again)))
            for again in (False, True)
        )
        return Activations(kept=kept.activations, recomputed=recomputed.activations)

    def _available(self) -> int:
        """Bytes for one worker on the scantiest of the groups: a run may land on any of them."""
        return min(
            int(each.group.gpu.memory_gb * 1e9)
            if self.on_gpu and each.group.gpu
            else each.memory_bytes_per_pod // each.workers_per_pod
            for each in self.shares
        )


def _nodes(shares: Sequence[NodeShare]) -> list[NodesTaken]:
    return [
        NodesTaken(
            group=each.group.name,
            pods_least=each.pods_least,
            pods_most=each.pods_most,
            workers_per_pod=each.workers_per_pod,
            gpus_per_pod=each.gpus_per_pod,
            gpu=each.group.gpu.type if each.group.gpu and each.gpus_per_pod else None,
            cpus_per_pod=each.cpus_per_pod,
            memory_bytes_per_pod=each.memory_bytes_per_pod,
            spot=each.group.spot,
            stands_in=number > 0,
        )
        for number, each in enumerate(shares)
    ]
