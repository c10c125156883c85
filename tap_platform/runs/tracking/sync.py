"""Sending a run, or a sweep, to its tracker after its end."""

from __future__ import annotations

from pathlib import Path

from tap_platform.config.load import validate_job
from tap_platform.config.pipeline import PipelineConfig
from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.directory import SWEEPS, RunDirectory, local_path
from tap_platform.runs.files import read_json
from tap_platform.runs.tracking import build_follower
from tap_platform.runs.tracking.follower import Follower
from tap_platform.runs.tracking.shown import is_sweep
from tap_platform.runs.tracking.sweep import follow_sweep, tracking_of_sweep


def sync_run(name: str, storage: str = "runs") -> int:
    """Send all that the tracker of a run lacks.

    Args:
        name: the run's name, or the path of its directory; a sweep's too.
        storage: where to look for a name.

    Returns:
        The number of records and files sent.

    Raises:
        ValueError: if there is no such run, it has no tracker, or the tracker does not take it.
    """
    folder = sweep_folder(name, storage)
    if folder is not None:
        tracking = tracking_of_sweep(folder)
        return _sync(folder.name, tracking, follow_sweep(folder, tracking))
    run = RunDirectory.find(storage, name)
    tracking = tracking_of(run)
    return _sync(run.name, tracking, build_follower(run, tracking))


def sweep_folder(name: str, storage: str) -> Path | None:
    """The directory of a sweep, by path, name or `PROJECT/SWEEP`; None if it is none, or several.

    A run of that name comes first.
    """
    path = Path(name).absolute()
    if is_sweep(path):
        return path
    place = local_path(storage)
    project, _, plain = name.rpartition("/")
    projects = [each for each in place.glob("*") if project in ("", each.name)]
    if not plain or any((each / plain / "status.json").is_file() for each in projects):
        return None
    folders = [each / SWEEPS / plain for each in projects]
    found = [folder for folder in folders if is_sweep(folder)]
    return found[0] if len(found) == 1 else None


def _sync(name: str, tracking: TrackingConfig, follower: Follower | None) -> int:
    if follower is None:
        raise ValueError(f"{name} has no tracker: its tracking.tracker is none")
    try:
        return follower.sync()
    except Exception as error:
        raise ValueError(
            f"{tracking.tracker} has not taken all of {name} ({error}); what it lacks is"
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
