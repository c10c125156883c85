"""The newest sound checkpoint of a run, as a local folder, wherever the run keeps them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from datamodules.cache_folder import cache_folder
from datamodules.storage import Location, read_bytes
from tap_platform.config.job import JobConfig
from tap_platform.runs import checkpoints
from tap_platform.runs.checkpoints import CorruptCheckpointError
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import locked

Skipped = Callable[[Location, str], None]


def newest_checkpoint(
    job: JobConfig,
    run: RunDirectory,
    events: EventLog,
    agree: Callable[[int | None], int | None] | None = None,
) -> Path | None:
    """The checkpoint that a worker goes on from; None for a run that never had one.

    Every byte is compared with what was committed. What is torn, changed, unreadable or cannot be
    loaded is skipped, with an event, for the one before. From a URL it is copied once for all
    workers of a computer.

    Args:
        job: The run's job.
        run: Its directory.
        events: This worker's event log.
        agree: Gives every worker the step that the first one has found, so that only that one
            looks, and all go on from the same. None: this process looks for itself.

    Raises:
        OSError: The store is down, or holds none of the checkpoints that the run has written: to
            begin anew then would lose the run.
        ValueError: There is no room for a copy.
        CorruptCheckpointError: This worker cannot read what the first one has found.
    """
    place = checkpoints.checkpoint_place(run, job.checkpoint)

    def tell(folder: Location, why: str) -> None:
        print(f"checkpoint {folder.name} is skipped: {why}")
        if events.rank in (None, 0):
            events.record("checkpoint_skipped", checkpoint=folder.name, reason=why)

    if agree is None or events.rank == 0:
        found = next(_sound_ones(place, _loadable, tell), None)
        if found is None:
            _check_never_had_one(run, place)
        step = checkpoints.step_of(found) if found else None
        if agree is not None:
            agree(step)
        return found
    step = agree(None)
    if step is None:
        return None
    folder = place / f"step-{step}"
    return folder if isinstance(folder, Path) else _on_this_computer(folder)


def newest_in_run(job: JobConfig, run: RunDirectory, on_skipped: Skipped) -> Path | None:
    """The newest checkpoint for whoever wants a run's weights: as `checkpoints/step-N` of the run.

    A checkpoint that lies elsewhere is copied there, or linked if it is in another local folder: a
    run that starts from these weights names them by that path, and finds what belongs to them in
    the run's directory.

    Args:
        job: The run's job.
        run: Its directory.
        on_skipped: Told the folder of every newer checkpoint that is corrupt, and why.

    Raises:
        OSError: The store is down.
        ValueError: There is no room for a copy.
    """
    place = checkpoints.checkpoint_place(run, job.checkpoint)
    return next(_sound_ones(place, lambda folder: _in_run(folder, run), on_skipped), None)


def checkpoint_in_run(job: JobConfig, run: RunDirectory, step: int) -> Path | None:
    """One checkpoint of a run as `newest_in_run` gives it; None if it does not exist.

    Raises:
        CorruptCheckpointError: It is not what was committed.
        OSError: The store is down.
        ValueError: There is no room for a copy.
    """
    folder = checkpoints.checkpoint_place(run, job.checkpoint) / f"step-{step}"
    return _in_run(folder, run) if checkpoints.is_committed(folder) else None


def _sound_ones(
    place: Location, bring: Callable[[Location], Path], on_skipped: Skipped
) -> Iterator[Path]:
    """Local folders of the sound checkpoints, the newest first."""
    for folder in reversed(checkpoints.committed(place)):
        try:
            yield bring(folder)
        except CorruptCheckpointError as error:
            on_skipped(folder, str(error))


def _check_never_had_one(run: RunDirectory, place: Location) -> None:
    if written := read_events(run.events, "checkpoint"):
        raise OSError(
            f"{run.path} has written checkpoints, the last at step {written[-1]['step']}, but no"
            f" sound one lies in {place}: mount or restore it and resume the run; to begin anew,"
            " start a new run"
        )


def _loadable(folder: Location) -> Path:
    """A checkpoint on this computer that is verified, and made of what training loads."""
    from tap_platform.training.checkpoint_check import check_loads

    found = _on_this_computer(folder)
    check_loads(found)
    return found


def _on_this_computer(folder: Location) -> Path:
    """A checkpoint that is verified; one from a URL as a copy, the only one kept of its run."""
    if isinstance(folder, Path):
        checkpoints.verify(folder)
        return folder
    name = hashlib.sha256(str(folder.parent).encode()).hexdigest()
    shelf = cache_folder() / "checkpoints" / name[:16]
    shelf.mkdir(parents=True, exist_ok=True)
    with locked(shelf / ".lock"):
        for other in shelf.iterdir():
            if other.is_dir() and other.name != folder.name:
                shutil.rmtree(other)
        return _copied(folder, shelf / folder.name)


def _in_run(folder: Location, run: RunDirectory) -> Path:
    """A checkpoint that is verified, in the folder of the run's own."""
    target = run.checkpoints / folder.name
    if isinstance(folder, Path):
        checkpoints.verify(folder)
        if folder != target and not target.exists():
            target.unlink(missing_ok=True)
            target.symlink_to(folder)
        return target
    with locked(run.checkpoints / ".lock"):
        return _copied(folder, target)


def _copied(folder: Location, target: Path) -> Path:
    """The copy of a checkpoint, made unless it is there."""
    if not _is_copy(target, folder):
        if target.exists():
            shutil.rmtree(target)
        checkpoints.fetch(folder, target)
    return target


def _is_copy(target: Path, folder: Location) -> bool:
    """Whether a local checkpoint is sound and the same as another."""
    if not checkpoints.is_committed(target):
        return False
    mark = checkpoints.COMMITTED
    try:
        checkpoints.verify(target)
        return (target / mark).read_bytes() == read_bytes(folder / mark)
    except CorruptCheckpointError:
        return False
