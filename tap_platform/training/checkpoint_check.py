"""Whether a checkpoint whose bytes are those committed is one that training can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from tap_platform.runs.checkpoints import CorruptCheckpointError
from tap_platform.runs.files import read_json
from tap_platform.training.sliced_checkpoints import TRAINING_NAME
from tap_platform.training.slices.exact_json import from_json
from tap_platform.training.slices.state import SlicedState


class _Lightning(BaseModel):
    global_step: int = Field(ge=0)
    loops: dict[str, Any]


class _Training(BaseModel):
    """What `training.json` must hold."""

    lightning: _Lightning
    steps: dict[str, float]
    learning_rates: list[float]
    counters: dict[str, Any]


def check_loads(folder: Path) -> None:
    """Look at the heads of all parts and at `training.json`; no tensor is read.

    Args:
        folder: A local checkpoint.

    Raises:
        CorruptCheckpointError: Parts do not fit together, or something is missing.
        OSError: The store is down.
    """
    SlicedState(folder)
    try:
        _Training.model_validate(from_json(read_json(folder / TRAINING_NAME)))
    except FileNotFoundError as error:
        raise CorruptCheckpointError(f"{folder} holds no {TRAINING_NAME}") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{folder / TRAINING_NAME} is not what training writes: {_fault(error)[:300]}"
        ) from error


def _fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error) or type(error).__name__
    faults = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in faults)
