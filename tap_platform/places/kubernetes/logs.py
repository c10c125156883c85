"""What a run's driver prints, from the log of the pod that follows it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from tap_platform.places.kubernetes import names
from tap_platform.places.kubernetes.client import Cluster, DroppedError, Object
from tap_platform.places.kubernetes.errors import NotThereError, RefusedError
from tap_platform.places.kubernetes.resources import PODS, RAY_JOBS

CONTAINER = "ray-job-submitter"
LOOK_EVERY_SECONDS = 1.0
_OVERLAP_SECONDS = 10
"""How much of what was read is asked for again: how late a line may reach us."""


def submitter_labels(run: str) -> str:
    """Selects the pods of a run that are no node of Ray."""
    return f"{names.RUN}={names.label_value(run)},!ray.io/node-type"


def driver_lines(cluster: Cluster, run: str, follow: bool) -> Iterator[str]:
    """The lines of a run's driver.

    A submitter that is evicted, or comes with a new cluster, prints the driver's log from its
    beginning: it is told from there.

    Args:
        cluster: its namespace.
        run: its name.
        follow: whether to wait for more until the run ends.

    Raises:
        NotThereError: if no such pod is there (any more).
    """
    if not follow:
        pods = cluster.list(PODS, submitter_labels(run))
        if not pods:
            raise NotThereError(f"{cluster.where}: no pod has the log of {run}", 404)
        yield from PodLog(cluster, _newest(pods)).lines(follow=False)
        return
    read: set[str] = set()
    is_over = False
    while not is_over:
        is_over = _is_over(cluster, run)
        for pod in sorted(cluster.list(PODS, submitter_labels(run)), key=_age):
            uid = pod["metadata"]["uid"]
            if uid not in read and _has_begun(pod):
                read.add(uid)
                yield from PodLog(cluster, pod).lines(follow=True)
        if not is_over:
            time.sleep(LOOK_EVERY_SECONDS)


class PodLog:
    """The log of one container, taken up again where a connection broke."""

    def __init__(self, cluster: Cluster, pod: Object) -> None:
        """Ask nothing yet."""
        self._cluster, self._pod = cluster, pod["metadata"]["name"]
        self._last = ""
        """Time of the last line."""
        self._of_last = 0
        """Lines that were read of that time."""
        self._read_at: float | None = None

    def lines(self, follow: bool) -> Iterator[str]:
        """All lines, each once; lines that the kubelet has rotated away meanwhile are lost."""
        while True:
            try:
                yield from self._new(follow)
            except DroppedError:
                continue
            except NotThereError:
                # Deleted in the middle: nobody has more of it.
                return
            except RefusedError as error:
                if error.status != 400:
                    raise
                time.sleep(LOOK_EVERY_SECONDS)
            if not follow or self._has_ended():
                return

    def _new(self, follow: bool) -> Iterator[str]:
        """What one connection brings beyond what was read."""
        repeated = self._of_last
        for line in self._cluster.pod_log(self._pod, CONTAINER, self._since(), follow):
            when, _, text = line.partition(" ")
            if when < self._last:
                continue
            if when == self._last and repeated:
                repeated -= 1
                continue
            self._of_last = self._of_last + 1 if when == self._last else 1
            self._last, self._read_at = when, time.monotonic()
            repeated = 0
            yield text

    def _since(self) -> int | None:
        """By our own clock alone: that of the node may be another."""
        if self._read_at is None:
            return None
        return math.ceil(time.monotonic() - self._read_at) + _OVERLAP_SECONDS

    def _has_ended(self) -> bool:
        """Whether the container will print no more; a stream also ends when a kubelet restarts."""
        try:
            pod = self._cluster.get(PODS, self._pod)
        except NotThereError:
            return True
        return _phase(pod) in ("Succeeded", "Failed")


def _is_over(cluster: Cluster, run: str) -> bool:
    try:
        job = cluster.get(RAY_JOBS, names.object_name(run))
    except NotThereError:
        return True
    ended = ("Complete", "Failed", "ValidationFailed")
    return job.get("status", {}).get("jobDeploymentStatus") in ended


def _has_begun(pod: Object) -> bool:
    return _phase(pod) in ("Running", "Succeeded", "Failed")


def _phase(pod: Object) -> str:
    return str(pod.get("status", {}).get("phase", ""))


def _newest(pods: list[Object]) -> Object:
    return max(pods, key=_age)


def _age(pod: Object) -> str:
    return str(pod["metadata"]["creationTimestamp"])
