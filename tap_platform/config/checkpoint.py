"""When checkpoints are written, where, and which of them stay."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tap_platform.config.base import Section


class CheckpointConfig(Section):
    """When checkpoints are written. The last step always writes one."""

    located: ClassVar[tuple[str, ...]] = ("storage",)

    storage: str | None = None
    """Folder or URL (`s3://bucket/path`, `gs://…`) that holds `<project>/<run>/step-N/`; null keeps
    them in the run directory. From a URL, a run that goes on copies its checkpoint to `$TAP_CACHE`
    of every node; evaluation, export and `init_from` copy it to the run directory."""
    every_steps: int | None = Field(None, gt=0)
    """Steps between checkpoints."""
    every_minutes: float | None = Field(None, gt=0)
    """Minutes between checkpoints, by the clock of the first worker."""
    background: bool = True
    """Copy the state to host memory, then write and upload it while training goes on; what is due
    before that has ended is left out. False stops training until a checkpoint is committed."""
    keep_last: int = Field(2, gt=0)
    """The newest committed checkpoints, which stay; older ones are removed."""
    keep_every: int | None = Field(None, gt=0)
    """Checkpoints whose step is a multiple of this stay for ever."""
    keep_best: int = Field(0, ge=0)
    """Checkpoints with the best `best_metric` that stay beside the newest."""
    best_metric: str = "val/box_iou"
    """A measure of held-out images, as `evaluation.every_steps` records it; the last one before a
    checkpoint is the checkpoint's."""
    best_is: Literal["highest", "lowest"] = "highest"
    """Which values of `best_metric` are best."""
