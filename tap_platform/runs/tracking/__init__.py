"""Trackers, and the follower that keeps them up with a run directory."""

from __future__ import annotations

from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.tracking.base import Tracker
from tap_platform.runs.tracking.follower import Follower
from tap_platform.runs.tracking.mlflow import MlflowTracker
from tap_platform.runs.tracking.source import RunSource
from tap_platform.runs.tracking.wandb import WandbTracker


def build_tracker(config: TrackingConfig) -> Tracker | None:
    """The tracker that a config names; None for `none`. Imports neither MLflow nor W&B."""
    if config.tracker == "none":
        return None
    return MlflowTracker(config) if config.tracker == "mlflow" else WandbTracker(config)


def build_follower(run: RunDirectory, config: TrackingConfig) -> Follower | None:
    """A follower of that run for the tracker that a config names; None for `none`."""
    tracker = build_tracker(config)
    return Follower(RunSource(run, config), tracker, config.interval) if tracker else None
