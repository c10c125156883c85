"""Where a run's parameters, metrics and pictures are shown. Secrets stay in the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tap_platform.config.base import Section


class MlflowConfig(Section):
    """The MLflow store that a run is shown in."""

    uri: str | None = None
    """Address of the store: a server (`http://host:5000`) or a database (`sqlite:////path/mlflow.db`).
    Null keeps `mlflow.db` in the storage folder, beside the runs. A server's user and password come
    from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""


class WandbConfig(Section):
    """The Weights & Biases account that a run is shown in."""

    mode: Literal["offline", "online"] = "offline"
    """`offline` writes files to the run directory, without network or key, for `wandb sync` to send
    later; `online` sends while the run goes on, with the key of WANDB_API_KEY or `wandb login`."""
    entity: str | None = None
    """User or team that owns the project; null is the account's default."""


class TrackingConfig(Section):
    """Which tracker follows a run. It only reads the run directory, so it never stops training."""

    tracker: Literal["mlflow", "wandb", "none"] = "mlflow"
    """Where the run is shown; `none` leaves it in the run directory alone."""
    mlflow: MlflowConfig = MlflowConfig()
    """Read when `tracker` is `mlflow`."""
    wandb: WandbConfig = WandbConfig()
    """Read when `tracker` is `wandb`."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Labels of the run, such as `team: vision`."""
    interval: float = Field(5.0, gt=0)
    """Seconds between two looks at the run directory."""
    final_timeout: float = Field(60.0, ge=0)
    """Seconds that the end of a run waits for the tracker; a later sync sends what is left then."""
