"""The main job, from nothing: scenes, a tiny TAP, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tap_platform.config.load import merge, parse_override, validate_job
from tap_platform.launch.train import create_run, train
from tap_platform.runs.directory import RunDirectory

JOB: dict[str, Any] = {}
