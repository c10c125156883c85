"""What a checkpoint takes, in the format of docs/checkpoints.md."""

from __future__ import annotations

from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapCaptionConfig
from tap_platform.estimate.figures import CheckpointSize
from tap_platform.estimate.state import FLOAT, model_size

WRITE_BANDWIDTH = 1e9
"""Bytes a second that shared storage takes of all workers together: assumed."""
COPY_BANDWIDTH = 5e9
"""Bytes a second from a device to host memory: assumed."""


def checkpoint_size(job: JobConfig) -> CheckpointSize:
    """Weights, moments and averages of a job's checkpoint; buffers of some megabytes left out.

    All workers write at once, each an equal part. A partially trained model's checkpoint leaves out
    what rests.
    """
    size = model_size(job)
    alone = isinstance(job.recipe, TapCaptionConfig) and job.recipe.train != "all"
    kinds = 3 + bool(job.optimizer.ema_decay)
    total = FLOAT * (kinds * size.trained + (0 if alone else size.resting))
    part = -(-total // job.scale.most_workers)
    config = job.checkpoint
    return CheckpointSize(
        total=total,
        per_worker=part,
        copy_seconds=part / COPY_BANDWIDTH,
        write_seconds=total / WRITE_BANDWIDTH,
        bandwidth=WRITE_BANDWIDTH,
        kept=config.keep_last + config.keep_best,
    )
