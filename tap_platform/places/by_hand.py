"""What was started on this computer without a place: runs and sweeps of somebody's terminal."""

from __future__ import annotations

import os
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from tap_platform.config.scale import ScaleConfig
from tap_platform.places.local import STATES, LocalPlace
from tap_platform.places.place import PlaceState
from tap_platform.places.sweep_log import directory_lines
from tap_platform.runs.directory import SWEEPS, RunDirectory
from tap_platform.runs.files import read_json
from tap_platform.runs.status import read_status
from tap_platform.runs.stop_request import StopRequest

STORAGE = "runs"
"""Where they lie, unless their job says otherwise."""
_VERBS = {"pipeline.json": "run", "ablation.json": "ablate", "config.json": "train"}
"""What of `tap` goes on with a run, by the file that it has."""


class ByHand(LocalPlace):
    """This computer, and one run or sweep on it: its directory tells all that is known."""

    def __init__(self, directory: RunDirectory) -> None:
        """Look at nothing yet."""
        super().__init__()
        self._directory = directory

    @property
    def grace(self) -> float:
        """Seconds that the job gives its workers for a checkpoint."""
        run = self._directory
        try:
            config = read_json(run.path / "sweep.json" if run.is_sweep else run.config)
            job = config["base"] if run.is_sweep else config
            return float(job["scale"]["grace_seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return ScaleConfig().grace_seconds

    def state(self, run: str) -> PlaceState:
        """The directory's own word."""
        return state_by_hand(self._directory)

    def logs(self, run: str, follow: bool, rank: int | None) -> Iterator[str]:
        """The lines that the driver, or a worker, printed; of a sweep, what its records tell.

        Raises:
            ValueError: if none were kept.
        """

        def ended() -> bool:
            return not follow or self.state(run).ended

        return directory_lines(self._directory, rank, ended)

    def stop(self, run: str, grace: float) -> None:
        """SIGTERM to the driver; without grace, two signals.

        Raises:
            ValueError: if it lives on another host, is another user's, or the sweep's.
        """
        if sweep := sweep_of(self._directory):
            raise ValueError(
                f"{run} is a trial of the sweep {sweep}, which would start it again: stop the"
                f" sweep, tap stop {sweep}"
            )
        status = read_status(self._directory.status)
        if status.host != socket.gethostname():
            raise ValueError(f"{run} is driven on {status.host}: call tap stop {run} there")
        try:
            os.kill(status.pid, signal.SIGTERM)
            if grace <= 0:
                os.kill(status.pid, signal.SIGINT)
        except ProcessLookupError:
            raise ValueError(f"{run} has ended: there is nothing to stop") from None
        except PermissionError:
            raise ValueError(
                f"the driver of {run}, process {status.pid}, is another user's: ask them"
            ) from None


def all_by_hand() -> list[RunDirectory]:
    """Runs and sweeps in the storage of this folder, however they were started."""
    sweeps = sorted(Path(STORAGE).absolute().glob(f"*/{SWEEPS}/*/status.json"))
    return [*RunDirectory.all(STORAGE), *(RunDirectory(path.parent) for path in sweeps)]


def at_path(path: str) -> RunDirectory | None:
    """The run or sweep whose directory that is; a name alone is none.

    Raises:
        ValueError: if it is another folder.
    """
    directory = RunDirectory(Path(path).absolute())
    if "/" not in path or not directory.path.is_dir():
        return None
    if not directory.status.is_file():
        raise ValueError(f"{path} is no directory of a run or a sweep: it has no status.json")
    return directory


def state_by_hand(run: RunDirectory) -> PlaceState:
    """What can be said of a run that was started here without a place: its own word."""
    told = PlaceState(
        run=run.name,
        project=run.project,
        state="unknown",
        why="",
        since=None,
        place="local",
        run_directory=str(run.path),
        mirror=None,
        by="",
        sweep=sweep_of(run),
        again=_again(run),
    )
    try:
        status = read_status(run.status)
    except (ValueError, OSError) as error:
        return told._replace(why=str(error))
    why = status.message.partition("\n")[0]
    if status.state == "running" and StopRequest(run).ends_run:
        return told._replace(state="stopping", why="the workers write a checkpoint")
    return told._replace(state=STATES[status.state], why=why, since=status.updated)


def sweep_of(run: RunDirectory) -> str | None:
    """The sweep that a run is a trial of."""
    if run.is_sweep:
        return None
    try:
        link = read_json(run.path / "sweep.json")
    except (OSError, ValueError):
        return None
    return str(link["sweep"]) if isinstance(link, dict) and "sweep" in link else None


def _again(run: RunDirectory) -> str:
    """The command that goes on with it."""
    here = Path(STORAGE).absolute()
    if sweep := sweep_of(run):
        return f"tap sweep --resume {sweep}"
    name = run.name if run.path.is_relative_to(here) else shlex.quote(str(run.path))
    files = (verb for file, verb in _VERBS.items() if (run.path / file).is_file())
    verb = "sweep" if run.is_sweep else next(files, "train")
    return f"tap {verb} --resume {name}"
