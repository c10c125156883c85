"""This computer as a place: a run's driver is a process of its own, which outlives its terminal."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import yaml

from tap_platform.config.profile import LocalProfile
from tap_platform.launch.driver_log import LOG_IS_KEPT
from tap_platform.places.local_records import (
    LocalRecord,
    read_record,
    recorded_runs,
    submission_folder,
    write_record,
)
from tap_platform.places.log_files import file_lines, rank_lines
from tap_platform.places.place import PlaceState, State, Submission
from tap_platform.places.submissions import make_private
from tap_platform.places.told import bill_variables
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import locked, utc_now, write_atomic
from tap_platform.runs.status import RunStatus, read_status

_LOG = "driver.log"
_SAME_PROCESS_SECONDS = 2.0
_UNKNOWN = "it was not submitted on this computer, or by another user"
STATES: dict[str, State] = {
    "preparing": "starting",
    "running": "running",
    "finished": "succeeded",
    "failed": "failed",
    "interrupted": "stopped",
}
"""What a run's own word for its state is here."""


class LocalPlace:
    """This computer. Each run has a folder with its files, its record and its driver's log."""

    files = "."

    def __init__(self, name: str = "local", profile: LocalProfile | None = None) -> None:
        """Look at nothing yet; the profile tells what this computer costs."""
        self.name = name
        self._profile = profile

    def render(self, submission: Submission) -> str:
        """The process that would be started, as YAML."""
        folder = submission_folder(submission.run)
        process = {
            "command": shlex.join(_command(submission)),
            "folder": str(folder),
            "log": str(folder / _LOG),
            "files": dict(submission.files),
        }
        return yaml.safe_dump(process, sort_keys=False, width=1000)

    def submit(self, submission: Submission) -> None:
        """Start the driver, in a session of its own. It runs the code that is here.

        Raises:
            ValueError: if a driver of that run lives, or it cannot be started.
        """
        folder = submission_folder(submission.run)
        make_private(folder)
        with locked(folder / ".lock"):
            before = read_record(submission.run)
            if before and before.driver_lives:
                raise ValueError(
                    f"{submission.run} is being trained already, by process {before.driver.pid}:"
                    f" wait for its end, or tap stop {submission.run}"
                )
            for name, text in submission.files.items():
                write_atomic(folder / name, text.encode())
            told = bill_variables(submission, self._profile)
            driver = _start(_command(submission), folder, told)
            write_record(LocalRecord.of(submission, driver.pid))

    def state(self, run: str) -> PlaceState:
        """How a run stands; `gone` if it was not submitted here."""
        record = read_record(run)
        if record is None:
            return PlaceState(run, "", "gone", _UNKNOWN, None, self.name, None, None, "")
        status = _status(record)
        state, why = _told(record, status) if status else _untold(record)
        began = datetime.fromtimestamp(record.driver.process_started - _SAME_PROCESS_SECONDS, UTC)
        return PlaceState(
            run=run,
            project=record.project,
            state=state,
            why=why,
            since=status.updated if status else record.submitted,
            place=self.name,
            run_directory=str(record.run_directory) if record.run_directory else None,
            mirror=record.mirror,
            by=record.by,
            submitted=began.isoformat(),
        )

    def states(self) -> list[PlaceState]:
        """All runs that were submitted here, by name; one whose files are broken is `unknown`."""
        return [self._readable(run) for run in recorded_runs()]

    def _readable(self, run: str) -> PlaceState:
        try:
            return self.state(run)
        except (ValueError, OSError) as error:
            return PlaceState(run, "", "unknown", str(error), None, self.name, None, None, "")

    def logs(self, run: str, follow: bool, rank: int | None) -> Iterator[str]:
        """The lines that the driver, or a worker, printed.

        Raises:
            ValueError: if the run was not submitted here, or it has no worker of that rank.
        """
        record = _record(run)

        def ended() -> bool:
            return not follow or self.state(run).ended

        if rank is None:
            return file_lines(submission_folder(run) / _LOG, ended)
        if record.run_directory is None:
            raise ValueError(f"{run} has no workers: leave --rank out")
        return rank_lines(RunDirectory(record.run_directory), rank, ended)

    def stop(self, run: str, grace: float) -> None:
        """SIGTERM to the driver, which has `scale.grace_seconds` then; without grace, two signals.

        Raises:
            ValueError: if it has ended.
        """
        record = _record(run)
        if not record.driver_lives:
            raise ValueError(f"{run} has ended: there is nothing to stop")
        write_record(record.model_copy(update={"stopped": utc_now()}))
        os.kill(record.driver.pid, signal.SIGTERM)
        if grace <= 0:
            # Two of one kind that come together are one.
            os.kill(record.driver.pid, signal.SIGINT)


def _record(run: str) -> LocalRecord:
    record = read_record(run)
    if record is None:
        raise ValueError(f"{run}: {_UNKNOWN}")
    return record


def _status(record: LocalRecord) -> RunStatus | None:
    """The status of the run, if it is of this driver, or of one that came after it."""
    if record.run_directory is None:
        return None
    try:
        status = read_status(RunDirectory(record.run_directory).status)
    except FileNotFoundError:
        return None
    earliest = record.driver.process_started - _SAME_PROCESS_SECONDS
    return status if status.process_started >= earliest else None


def _told(record: LocalRecord, status: RunStatus) -> tuple[State, str]:
    """How a run stands that has a status, and why."""
    if status.ended and record.driver_lives:
        return "stopping", "its driver is ending"
    if record.stopped and not status.ended:
        return "stopping", "the workers write a checkpoint"
    return STATES[status.state], status.message


def _untold(record: LocalRecord) -> tuple[State, str]:
    """How a run stands whose driver has not told anything, and why."""
    if record.driver_lives:
        return ("stopping" if record.stopped else "starting"), ""
    if record.stopped:
        return "stopped", "before it had begun"
    log = submission_folder(record.run) / _LOG
    last = list(file_lines(log))[-1:]
    return "failed", f"{''.join(last).removeprefix('tap: ')} (log: {log})"


def _command(submission: Submission) -> list[str]:
    """The program as this environment has it."""
    program, *arguments = submission.command
    here = Path(sys.executable).parent / program
    return [str(here) if here.is_file() else program, *arguments]


def _start(command: list[str], folder: Path, told: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        with (folder / _LOG).open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **told, LOG_IS_KEPT: str(folder / _LOG)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise ValueError(f"{command[0]} cannot be started: {error.strerror}") from error
