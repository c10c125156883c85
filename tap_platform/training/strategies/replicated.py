"""Every worker has the whole state: torch's distributed data parallelism."""

from __future__ import annotations

from typing import Any

from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

from tap_platform.training.sliced_checkpoints import SlicedCheckpoints


class ReplicatedStrategy(SlicedCheckpoints, RayDDPStrategy):
    """Gradients are averaged while the backward pass runs.

    Buffers are not broadcast: what changes of them are the statistics of `SynchronizedBatchNorm`,
    which every worker computes to the same bits.
    """

    def __init__(self) -> None:
        options: dict[str, Any] = {
            "cluster_environment": RayLightningEnvironment(),
            "find_unused_parameters": False,
            "gradient_as_bucket_view": True,
            "broadcast_buffers": False,
        }
        super().__init__(**options)
