"""Where copies of a run's small files go while it lasts."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tap_platform.config.base import Section


class MirrorConfig(Section):
    """A second home of the run directory's files but for checkpoints, to read without a cluster.

    A thread of the driver copies what has changed; a store that is down never stops training.
    """

    located: ClassVar[tuple[str, ...]] = ("url",)

    url: str | None = None
    """Folder or URL (`s3://bucket/runs`, `gs://…`) that gets `<project>/<run>/`: config, status,
    events, metrics, logs, pictures and report. Null copies nothing."""
    interval: float = Field(15.0, gt=0)
    """Seconds between two looks at the run directory. A file of N megabytes is copied after N + 1
    of them at the soonest, and once more at the end."""
    largest_megabytes: float = Field(64.0, gt=0)
    """Files above this many millions of bytes are left out; an event tells which."""
    final_timeout: float = Field(30.0, ge=0)
    """Seconds that the end of a run waits for the last copies."""
