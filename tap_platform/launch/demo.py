"""The main job, from nothing: scenes, a tiny TAP, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tap_platform
from tap_platform.launch.train import start_run
from tap_platform.runs.directory import RunDirectory

JOB = "tap_tiny_scenes.yaml"


def run_demo(overrides: Sequence[str] = ()) -> RunDirectory:
    """Make scenes, train on them, evaluate, and say where everything lies.

    Raises:
        ValueError: if an override is refused, or a folder cannot be written.
        RunFailedError: if training failed.
    """
    return start_run(job_file(JOB), overrides)


def job_file(name: str) -> Path:
    """A job that ships with the platform, from the checkout or the installed package."""
    package = Path(tap_platform.__file__).parent
    places = (package.parent / "jobs" / name, package / "jobs" / name)
    return next((place for place in places if place.is_file()), places[0])
