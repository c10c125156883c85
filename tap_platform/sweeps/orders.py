"""What the driver of a trial is to do now: a file in the sweep's directory.

A driver that Ray Tune starts again would else be told what its first one was told.
"""

from __future__ import annotations

from pathlib import Path

from tap_platform.runs.files import write_atomic
from tap_platform.sweeps.live_trial import TrialOrder


def write_order(order: TrialOrder) -> None:
    """Let a trial's driver, now or once there is one, do so."""
    path = _path(order)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, order.model_dump_json(indent=1).encode())


def read_order(order: TrialOrder) -> TrialOrder:
    """The newest order for the trial of an earlier one."""
    return TrialOrder.model_validate_json(_path(order).read_bytes())


def _path(order: TrialOrder) -> Path:
    return Path(order.sweep) / "orders" / f"{order.trial}.json"
