"""Sending a run to its tracker after the run."""

from __future__ import annotations

from tap_platform.config.load import validate_job
from tap_platform.config.pipeline import PipelineConfig
from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_json
from tap_platform.runs.tracking import build_follower


def sync_run(name: str, storage: str = "runs") -> int:
    """Send all that the tracker of a run lacks.

    Args:
        name: the run's name, or the path of its directory.
        storage: where to look for a name.

    Returns:
        The number of records and files sent.

    Raises:
        ValueError: if there is no such run, it has no tracker, or the tracker does not take it.
    """
    run = RunDirectory.find(storage, name)
    tracking = tracking_of(run)
    follower = build_follower(run, tracking)
    if follower is None:
        raise ValueError(f"{run.name} has no tracker: its tracking.tracker is none")
    try:
        return follower.sync()
    except Exception as error:
        raise ValueError(
            f"{tracking.tracker} has not taken all of {run.name} ({error}); what it lacks is"
            " kept for another try"
        ) from error


def tracking_of(run: RunDirectory) -> TrackingConfig:
    """Where a run is shown, by its config; a pipeline's own run by that of its stages.

    Raises:
        ValueError: if the config is broken.
    """
    if run.pipeline.is_file():
        return PipelineConfig.model_validate(read_json(run.pipeline)).tracking
    return validate_job(read_json(run.config), where=str(run.config)).tracking
