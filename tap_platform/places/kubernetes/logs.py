"""What a run's driver prints, from the log of the pod that follows it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator

from tap_platform.places.kubernetes import names
from tap_platform.places.kubernetes.client import Cluster, Object
from tap_platform.places.kubernetes.errors import NotThereError, RefusedError
from tap_platform.places.kubernetes.pod_log import Patience, PodLog, phase
from tap_platform.places.kubernetes.resources import PODS, RAY_JOBS

LOOK_EVERY_SECONDS = 1.0
_NEAR_LINES = 200
"""How many lines of a log another pod may lack."""


def submitter_labels(run: str) -> str:
    """Selects the pods of a run that are no node of Ray."""
    return f"{names.RUN}={names.label_value(run)},!ray.io/node-type"


def driver_lines(cluster: Cluster, run: str, follow: bool) -> Iterator[str]:
    """The lines of a run's driver.

    A submitter that takes the place of an evicted one prints the driver's log from its beginning:
    what was told already is passed over. One that comes with a new cluster has a log of its own.

    Args:
        cluster: its namespace.
        run: its name.
        follow: whether to wait for more until the run ends.

    Raises:
        NotThereError: if no such pod is there (any more), and none was read.
        RefusedError: if the server refuses, or is away for longer than `PATIENCE_SECONDS`.
    """
    if not follow:
        pods = cluster.list(PODS, submitter_labels(run))
        if not pods:
            raise _no_log(cluster, run)
        yield from PodLog(cluster, _newest(pods)).lines(follow=False)
        return
    read: set[str] = set()
    heard: dict[str, Heard] = {}
    patience = Patience()
    is_over = False
    while not is_over:
        try:
            is_over = _is_over(cluster, run)
            pods = sorted(cluster.list(PODS, submitter_labels(run)), key=_age)
        except RefusedError as error:
            patience.bear(error)
            is_over = False
            continue
        patience.rest()
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid not in read and _has_begun(pod):
                read.add(uid)
                of_driver = heard.setdefault(_submitter(pod), Heard())
                yield from of_driver.new(PodLog(cluster, pod).lines(follow=True))
        if not is_over:
            time.sleep(LOOK_EVERY_SECONDS)
    if not read:
        raise _no_log(cluster, run)


class Heard:
    """What was told of one driver's log, which several pods may print from its beginning."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._lines = array("q")
        """The hash of each line: a log of a million lines takes 8 MB."""

    def new(self, lines: Iterator[str]) -> Iterator[str]:
        """Those lines that were not told.

        What a pod says before the log, of how it reached the driver, differs from pod to pod: it is
        told, and the others are found behind it.
        """
        place, known = 0, len(self._lines)
        for line in lines:
            mark = hash(line)
            if place < known:
                near = self._lines[place : min(known, place + _NEAR_LINES)]
                if mark in near:
                    place += near.index(mark) + 1
                    continue
            self._lines.append(mark)
            yield line


def _no_log(cluster: Cluster, run: str) -> NotThereError:
    return NotThereError(f"{cluster.where}: no pod has the log of {run}", 404)


def _submitter(pod: Object) -> str:
    """What makes pods that follow one driver: the Job that a pod is of, or the pod alone."""
    owners = pod["metadata"].get("ownerReferences") or [pod["metadata"]]
    return str(owners[0]["uid"])


def _is_over(cluster: Cluster, run: str) -> bool:
    try:
        job = cluster.get(RAY_JOBS, names.object_name(run))
    except NotThereError:
        return True
    ended = ("Complete", "Failed", "ValidationFailed")
    return job.get("status", {}).get("jobDeploymentStatus") in ended


def _has_begun(pod: Object) -> bool:
    return phase(pod) in ("Running", "Succeeded", "Failed")


def _newest(pods: list[Object]) -> Object:
    return max(pods, key=_age)


def _age(pod: Object) -> str:
    return str(pod["metadata"]["creationTimestamp"])
