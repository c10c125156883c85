"""When somebody is told of a run while it goes on, and where."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tap_platform.config.base import Section

AlertKind = Literal["failure", "recovery", "stall", "divergence", "budget", "sweep_done"]
KINDS: tuple[AlertKind, ...] = (
    "failure",
    "recovery",
    "stall",
    "divergence",
    "budget",
    "sweep_done",
)


class AlertBudget(Section):
    """What a run may take before somebody is told; nothing ends by it."""

    cost: float | None = Field(None, gt=0)
    """Money, in the currency of the machines' prices; null: no limit. It needs a price: that of a
    profile, or TAP_PRICE_PER_HOUR."""
    gpu_hours: float | None = Field(None, gt=0)
    """Hours of all GPUs together; null: no limit."""
    hours: float | None = Field(None, gt=0)
    """Hours of machines; null: no limit."""
    share: float = Field(0.8, gt=0, le=1)
    """Share of a limit at which an alert is sent; another one follows at the limit itself."""


class AlertsConfig(Section):
    """Messages to a webhook, such as Slack's or Mattermost's, about what people should know.

    A thread of the driver sends them: one that cannot be sent never stops training.
    """

    webhook_from: str = Field("TAP_ALERTS_WEBHOOK", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the webhook's address, which is a secret. Where
    that is not set, nothing is sent; a profile's `secrets` set it on a cluster."""
    on: tuple[AlertKind, ...] = KINDS
    """What is told: `failure` of an attempt, `recovery` after lost workers or drivers, `stall`
    (nothing moves, or a worker hangs), `divergence` (numbers that are not finite), `budget`, and
    `sweep_done`."""
    stall_minutes: float | None = Field(30.0, gt=0)
    """A run that ends no step for so long, its start included, has stalled; null: none does."""
    budget: AlertBudget = AlertBudget()
    """What it may take before somebody is told."""
    interval: float = Field(10.0, gt=0)
    """Seconds between two looks at the run directory."""
    final_timeout: float = Field(10.0, ge=0)
    """Seconds that the end of a run waits for its last alert."""
