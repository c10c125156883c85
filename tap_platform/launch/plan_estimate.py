"""A plan with what the job takes and costs on the machines of a profile."""

from __future__ import annotations

from statistics import median

from tap_platform.config.job import JobConfig
from tap_platform.config.load import validate_job
from tap_platform.config.profile import Profile
from tap_platform.estimate.figures import Estimate
from tap_platform.estimate.nodes import nodes_for
from tap_platform.estimate.pace import Measured
from tap_platform.launch.plan import Plan, make_plan
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_json
from tap_platform.runs.metrics import read_metrics

SECONDS = "speed/seconds_per_step"


class EstimatedPlan(Plan):
    """A plan, and what it takes."""

    estimate: Estimate


def make_estimated_plan(
    job: JobConfig, profile: Profile, name: str, like: str | None = None
) -> EstimatedPlan:
    """Work out a job's plan and what it takes on a profile.

    Args:
        job: the job.
        profile: where it is to run.
        name: the profile's.
        like: a run, by name or path, whose measured speed is taken.

    Raises:
        ValueError: if the profile does not hold the job, or the run has no measured speed.
    """
    from tap_platform.estimate.estimate import estimate

    # What is refused is refused before torch is imported, which takes seconds.
    nodes_for(job, profile)
    measured = _measured(job.storage, like) if like else None
    return EstimatedPlan(**dict(make_plan(job)), estimate=estimate(job, profile, name, measured))


def _measured(storage: str, name: str) -> Measured:
    """The speed of a run, on the device that it trained on."""
    run = RunDirectory.find(storage, name)
    job = validate_job(read_json(run.config), where=str(run.config))
    records = read_metrics(run.metrics)
    seconds = [each.values[SECONDS] for each in records if SECONDS in each.values]
    if not seconds:
        raise ValueError(
            f"{run.name} has no {SECONDS} in {run.metrics}: name a run that has recorded steps"
            " (training.log_every)"
        )
    return Measured(run.name, median(seconds), job)
