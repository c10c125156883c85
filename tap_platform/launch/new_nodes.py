"""Nodes that Ray's autoscaler adds when they are asked for, such as where spot instances train.

KubeRay hands a run to such a cluster when its head is up: nothing has asked for a worker's node by
then, and nothing would.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from rich.console import Console

from tap_platform.config.job import JobConfig
from tap_platform.estimate.nodes import cpus_of_worker
from tap_platform.launch.gauges import PEAK

AUTOSCALED = "TAP_AUTOSCALED"
"""Variable of the driver: `1` where an autoscaler adds nodes."""
START_SECONDS = "TAP_START_SECONDS"
"""Variable of the driver: how long nodes may take to come; as long as it takes without it."""
LOOK_EVERY_SECONDS = 1.0


def is_autoscaled() -> bool:
    """Whether nodes come when they are asked for."""
    return os.environ.get(AUTOSCALED) == "1"


def gpus_of_worker(job: JobConfig) -> int:
    """GPUs that a worker of a cluster with an autoscaler is to have: 0 or 1.

    What nodes there are does not tell: there may be none yet. The profile does, by their peak.
    """
    wanted = job.scale.device == "gpu" or (job.scale.device == "auto" and PEAK in os.environ)
    return 1 if wanted else 0


def wait_for_nodes(job: JobConfig, check: Callable[[], None], console: Console) -> None:
    """Have nodes added for the fewest workers of a job, where there are too few.

    The request is withdrawn when they are there: the workers themselves hold them from then on.

    Args:
        job: the job.
        check: raises a ValueError, with what is there and what is needed, while they do not fit.
        console: where to tell what is waited for.

    Raises:
        ValueError: as `check` does, if they are not there within `TAP_START_SECONDS`.
    """
    from ray.autoscaler.sdk import request_resources

    lack = _lack(check)
    if lack is None:
        return
    workers, each = job.scale.least_workers, _bundle(job)
    told = " and ".join(f"{number} {resource}s" for resource, number in each.items())
    console.print(f"waiting for nodes for {workers} workers of {told}: {lack}", soft_wrap=True)
    began = time.monotonic()
    request_resources(bundles=[each] * workers)
    try:
        _wait(check, began)
    finally:
        request_resources(bundles=[])
    console.print(f"the nodes are there, after {time.monotonic() - began:.0f} s")


def _bundle(job: JobConfig) -> dict[str, int]:
    """What one worker and the data tasks that read for it hold; it fits on one node."""
    gpus = gpus_of_worker(job)
    return {"CPU": cpus_of_worker(job), **({"GPU": gpus} if gpus else {})}


def _wait(check: Callable[[], None], began: float) -> None:
    most = float(os.environ.get(START_SECONDS) or "inf")
    while (lack := _lack(check)) is not None:
        if time.monotonic() - began > most:
            raise ValueError(
                f"{most:g} s after they were asked for (lifetime.start_seconds), there are still"
                f" too few nodes: {lack}"
            ) from lack
        time.sleep(LOOK_EVERY_SECONDS)


def _lack(check: Callable[[], None]) -> ValueError | None:
    try:
        check()
    except ValueError as lack:
        return lack
    return None
