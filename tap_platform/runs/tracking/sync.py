"""Sending a run to its tracker after the run."""

from __future__ import annotations

from tap_platform.config.load import validate_job
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
    job = validate_job(read_json(run.config), where=str(run.config))
    follower = build_follower(run, job.tracking)
    if follower is None:
        raise ValueError(f"{run.name} has no tracker: its tracking.tracker is none")
    try:
        return follower.sync()
    except Exception as error:
        raise ValueError(
            f"{job.tracking.tracker} has not taken all of {run.name} ({error}); what it lacks is"
            " kept for another try"
        ) from error
