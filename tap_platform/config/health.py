"""When a run is ill, and what is done about it."""

from __future__ import annotations

from pydantic import Field

from tap_platform.config.base import Section


class HealthConfig(Section):
    """Hangs, numbers that are no numbers, and losses that jump."""

    hang_minutes: float | None = Field(30.0, gt=0)
    """A worker that ends no step for so long tells its rank, step and Python stack, and is ended,
    which counts as a failure. The first step has three times as long. Null waits for ever."""
    skipped_steps: int = Field(5, gt=0)
    """Steps in a row whose loss or gradient is not finite. Each is skipped and counted; after so
    many the run goes back to its last checkpoint, and leaves out the samples of those steps."""
    returns: int = Field(2, ge=0)
    """How often a run goes back so before it fails."""
    spike_factor: float | None = Field(3.0, gt=1)
    """A loss this many times above the median of the last `spike_window` recorded ones is an event;
    null looks for none."""
    spike_window: int = Field(50, gt=4)
    """Recorded losses that the median is taken of."""
