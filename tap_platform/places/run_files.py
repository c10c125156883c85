"""The files of a run at a place, as they are seen from here: mounted, or copied to a mirror."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tap_platform.config.kubernetes import StorageConfig
from tap_platform.config.profile import Profile
from tap_platform.places.place import PlaceState
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import RunStatus, read_status


def run_status(state: PlaceState, profile: Profile | None) -> RunStatus | None:
    """What a run's directory says, if it is seen; of a mirror, only the status is fetched."""
    if mounted := mounted_directory(state, profile):
        with suppress(OSError, ValueError):
            return read_status(mounted.status)
    if state.mirror:
        from datamodules.storage import location, read_bytes

        with suppress(OSError, ValueError):
            return RunStatus.model_validate_json(read_bytes(location(state.mirror) / "status.json"))
    return None


def run_files(state: PlaceState, profile: Profile | None) -> RunDirectory:
    """A run's directory, or what a mirror has of it.

    Raises:
        ValueError: if neither is seen from here; the message says what to set up.
        OSError: if the mirror does not answer.
    """
    if mounted := mounted_directory(state, profile):
        return mounted
    if state.mirror:
        from tap_platform.runs.mirrored import fetch_run

        base, project, run = state.mirror.rsplit("/", 2)
        return fetch_run(base, project, run)
    where = f" ({state.run_directory} there)" if state.run_directory else ""
    raise ValueError(
        f"the run directory of {state.run}{where} is not seen from here: name the folder where its"
        " storage is mounted here (storage.seen_here of the profile), or have it copied"
        " (storage.mirror)"
    )


def mounted_directory(state: PlaceState, profile: Profile | None) -> RunDirectory | None:
    """A run's directory, if it is a folder here."""
    storage: StorageConfig | None = getattr(profile, "storage", None)
    folders = [Path(state.run_directory)] if state.run_directory else []
    if storage is not None and storage.seen_here is not None:
        folders.insert(0, Path(storage.seen_here).expanduser() / state.project / state.run)
    directories = map(RunDirectory, folders)
    return next((each for each in directories if each.status.is_file()), None)
