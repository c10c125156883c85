"""The files of a run at a place, as they are seen from here: mounted, or copied to a mirror."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from tap_platform.config.kubernetes import StorageConfig
from tap_platform.config.profile import Profile
from tap_platform.places.place import PlaceState
from tap_platform.runs.directory import RunDirectory, check_plain_name
from tap_platform.runs.status import RunStatus, read_status

_AT_ONCE = 32
"""Mirrors' files that are read at once."""


def run_status(state: PlaceState, profile: Profile | None) -> RunStatus | None:
    """What a run's directory says, if it is seen; of a mirror, only the status is fetched."""
    if mounted := mounted_directory(state, profile):
        with suppress(OSError, ValueError):
            return read_status(mounted.status)
    return _mirrored_status(state.mirror) if state.mirror else None


def run_statuses(
    runs: Sequence[tuple[PlaceState, Profile | None]], patience: float
) -> list[RunStatus | None]:
    """The same of many runs; all mirrors are asked at once.

    Args:
        runs: what their places say, and their profiles.
        patience: seconds for the mirrors together; what has not come by then is not seen.
    """
    found = {}
    asked: SimpleQueue[tuple[int, PlaceState, Profile | None]] = SimpleQueue()
    come: SimpleQueue[tuple[int, RunStatus | None]] = SimpleQueue()
    for number, (state, profile) in enumerate(runs):
        if state.mirror and mounted_directory(state, profile) is None:
            asked.put((number, state, profile))
        else:
            found[number] = run_status(state, profile)
    missing = len(runs) - len(found)
    for _ in range(min(_AT_ONCE, missing)):
        # Nobody waits for these, at the end of the program neither: a store that is down is tried
        # for minutes.
        Thread(target=_ask, args=(asked, come), daemon=True).start()
    deadline = time.monotonic() + patience
    with suppress(Empty):
        for _ in range(missing):
            number, status = come.get(timeout=max(0.0, deadline - time.monotonic()))
            found[number] = status
    return [found.get(number) for number in range(len(runs))]


def _ask(
    asked: SimpleQueue[tuple[int, PlaceState, Profile | None]],
    come: SimpleQueue[tuple[int, RunStatus | None]],
) -> None:
    with suppress(Empty):
        while True:
            number, state, profile = asked.get_nowait()
            come.put((number, run_status(state, profile)))


def _mirrored_status(mirror: str) -> RunStatus | None:
    from datamodules.storage import location, read_bytes

    with suppress(OSError, ValueError):
        return RunStatus.model_validate_json(read_bytes(location(mirror) / "status.json"))
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
        seen = Path(storage.seen_here).expanduser() / state.lies
        with suppress(ValueError):
            # What a cluster calls its runs, anybody there may have written.
            check_plain_name("project", state.project)
            check_plain_name("run", state.run)
            folders.insert(0, seen)
    directories = map(RunDirectory, folders)
    return next((each for each in directories if each.status.is_file()), None)
