"""How long steps take: by FLOPs and links, or by a run that was measured."""

from __future__ import annotations

from typing import NamedTuple

from tap_platform.config.job import JobConfig
from tap_platform.config.profile import Profile
from tap_platform.estimate.communication import communication_seconds, sent_bytes
from tap_platform.estimate.figures import Pace
from tap_platform.estimate.nodes import NodeShare


class Measured(NamedTuple):
    """What a run took."""

    run: str
    seconds_per_step: float
    """The median over its records."""
    job: JobConfig
    """That it trained."""


def pace_of(job: JobConfig, profile: Profile, share: NodeShare, flops: int) -> Pace:
    """The time of a job's steps by the profile.

    Args:
        job: the job.
        profile: where it runs.
        share: its nodes.
        flops: of one step of one worker.
    """
    exchange = communication_seconds(job, share.group, share.pods_most)
    compute, basis = _by_peak(job, profile, share, flops)
    if compute is not None and exchange is None:
        basis += "; the links are not told (network_gbps, nvlink_gbps), and left out"
    seconds = None if compute is None else compute + (exchange or 0.0)
    return Pace(
        compute_seconds=compute,
        communication_seconds=exchange,
        sent_bytes=sent_bytes(job),
        step_seconds=seconds,
        basis=basis,
        hours=None if seconds is None else _hours(job, seconds),
    )


def as_measured(job: JobConfig, pace: Pace, like: Measured, ratio: float) -> Pace:
    """The same with the time of a run that was measured.

    Args:
        job: the job.
        pace: by the profile.
        like: the run; what its workers said to each other is part of its time.
        ratio: FLOPs of one worker's step, over those of the run's.
    """
    seconds = like.seconds_per_step * ratio
    told = f"{like.run} took {like.seconds_per_step:.4g} s a step (median)"
    return pace.model_copy(
        update={
            "compute_seconds": None,
            "step_seconds": seconds,
            "hours": _hours(job, seconds),
            "basis": f"{told}, times {ratio:.3g} for the FLOPs of a worker",
        }
    )


def _hours(job: JobConfig, seconds: float) -> float:
    return seconds * job.training.max_steps / 3600


def _by_peak(
    job: JobConfig, profile: Profile, share: NodeShare, flops: int
) -> tuple[float | None, str]:
    """Seconds of computation at the profile's share of the GPU's peak, and what they rest on."""
    gpu = share.group.gpu
    like = "`--like RUN` takes a run's"
    if gpu is None or not share.gpus_per_pod:
        return None, f"not known: nothing tells how fast these CPUs are; {like}"
    if job.training.precision == "fp32":
        return None, f"not known: profiles tell the peak of bf16, the job computes in fp32; {like}"
    seconds = flops / (profile.mfu * gpu.tflops * 1e12)
    peak = f"the {gpu.tflops:,.0f} TFLOP/s of {gpu.type}"
    return seconds, f"FLOPs at {profile.mfu:.0%} (mfu of the profile) of {peak}"
