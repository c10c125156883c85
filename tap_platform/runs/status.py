"""What a run is doing: `status.json`, shared by the driver (state) and rank 0 (step)."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tap_platform.runs.files import locked, utc_now, write_json

State = Literal["preparing", "running", "finished", "failed", "interrupted"]
ENDED: frozenset[State] = frozenset({"finished", "failed", "interrupted"})

# The kernel tells a process's start to a hundredth of a second, its own boot to a second.
_START_TOLERANCE = 2.0


class RunStatus(BaseModel):
    """The state of a run at one moment. Times are UTC in ISO 8601."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    state: State = "preparing"
    """What the driver last said: `preparing` and `running` until one of the three ends."""
    parent: str | None = None
    """The run of the same project that this one is a stage of; null for a run of its own."""
    step: int = 0
    """Optimizer steps done; stages finished, of a run that consists of stages."""
    max_steps: int | None = None
    """Optimizer steps, or stages, to do; null while unknown."""
    attempt: int = 0
    """Starts of this run, the present one included."""
    started: str = Field(default_factory=utc_now)
    """When the run was first started."""
    updated: str = Field(default_factory=utc_now)
    """When this status was written."""
    world_size: int | None = None
    """Workers of the present attempt; null while unknown."""
    message: str = ""
    """For people: why the run is where it is."""
    pid: int = Field(default_factory=os.getpid)
    """Process id of the driver."""
    process_started: float = Field(default_factory=lambda: _process_start(os.getpid()) or 0.0)
    """When the driver's process began, seconds since 1970: process ids are used again."""
    host: str = Field(default_factory=socket.gethostname)
    """Host of the driver."""

    @property
    def ended(self) -> bool:
        """Whether no attempt is going on."""
        return self.state in ENDED

    def observed(self) -> RunStatus:
        """This status, corrected by what this host sees: a run without a driver is interrupted.

        A driver on another host cannot be looked at, so its own word stands.
        """
        if self.ended or self.host != socket.gethostname() or self._driver_lives():
            return self
        message = f"the driver (process {self.pid} on {self.host}) is gone"
        return self.model_copy(update={"state": "interrupted", "message": message})

    def _driver_lives(self) -> bool:
        start = _process_start(self.pid)
        return start is not None and abs(start - self.process_started) < _START_TOLERANCE


def driver_identity() -> dict[str, Any]:
    """The fields that make this process the driver, for `update_status` of a resumed run."""
    return RunStatus().model_dump(include={"pid", "process_started", "host"})


def read_status(path: Path) -> RunStatus:
    """The status that a file tells, corrected by `RunStatus.observed`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no status; the message names it.
    """
    return _read(path).observed()


def write_status(path: Path, status: RunStatus) -> None:
    """Replace the status, atomically."""
    write_json(path, status.model_dump())


def update_status(path: Path, **changes: Any) -> RunStatus:
    """Change some fields, and the time; changes by other processes at the same time are kept.

    Only a change of state waits for the disk, so that a step costs training next to nothing.

    Raises:
        FileNotFoundError: There is no status to change.
        ValueError: The file holds no status, or a change is not one of its fields' values.
    """
    if unknown := changes.keys() - RunStatus.model_fields.keys():
        raise ValueError(f"a run's status has no field {', '.join(sorted(unknown))}")
    with locked(path.with_name(".status.lock")):
        status = RunStatus(**{**_read(path).model_dump(), "updated": utc_now(), **changes})
        write_json(path, status.model_dump(), durable="state" in changes)
    return status


def _read(path: Path) -> RunStatus:
    try:
        return RunStatus.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise ValueError(
            f"{path} holds no status of a run ({where}{first['msg']}): restore it, or delete the"
            " run's folder"
        ) from error


def _process_start(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        # One that has ended may wait for long to be buried, in a container above all.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None
