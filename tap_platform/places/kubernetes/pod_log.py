"""The log of one container, whatever the network does."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from datetime import datetime

from tap_platform.places.kubernetes.client import Cluster, DroppedError, Object
from tap_platform.places.kubernetes.errors import NotThereError, RefusedError
from tap_platform.places.kubernetes.resources import PODS

CONTAINER = "ray-job-submitter"
PAUSE_SECONDS = 0.5
"""Before a log that broke off is taken up again."""
WAIT_SECONDS = 1.0
"""Between two tries, while there is no log or no server."""
PATIENCE_SECONDS = 120.0
"""How long a server may be away."""
_OVERLAP_SECONDS = 10
"""How much of what was read is asked for again: how late a line may reach us."""
_STAMP = re.compile(
    r"(?P<seconds>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.(?P<fraction>\d+))?(?P<zone>Z|[+-]\d\d:\d\d)"
)


class Patience:
    """Bears with a server that is away for a while."""

    def __init__(self) -> None:
        """It was there."""
        self._away_since: float | None = None

    def rest(self) -> None:
        """It is there."""
        self._away_since = None

    def bear(self, error: RefusedError) -> None:
        """Wait for a moment, unless it is no outage, or one that lasts.

        Raises:
            RefusedError: the error, then.
        """
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        is_outage = error.status == 0 or error.status >= 500
        if not is_outage or now > self._away_since + PATIENCE_SECONDS:
            raise error
        time.sleep(WAIT_SECONDS)


class PodLog:
    """The log of one container, taken up again where a connection broke."""

    def __init__(self, cluster: Cluster, pod: Object) -> None:
        """Ask nothing yet."""
        self._cluster, self._pod = cluster, pod["metadata"]["name"]
        self._last = 0
        """Time of the last line that has one, in nanoseconds."""
        self._of_last = 0
        """Lines that were read of that time."""
        self._read_at: float | None = None
        self._patience = Patience()

    def lines(self, follow: bool) -> Iterator[str]:
        """All lines, each once; lines that the kubelet has rotated away meanwhile are lost."""
        while True:
            try:
                yield from self._new(follow)
                if not follow or self._has_ended():
                    return
            except DroppedError:
                time.sleep(PAUSE_SECONDS)
            except NotThereError:
                # Deleted in the middle: nobody has more of it.
                return
            except RefusedError as error:
                if error.status != 400:
                    if not follow:
                        raise
                    self._patience.bear(error)
                    continue
                if not follow or self._has_ended():
                    return
                time.sleep(WAIT_SECONDS)

    def _new(self, follow: bool) -> Iterator[str]:
        """What one connection brings beyond what was read.

        A line without a time, such as a kubelet's own word, is as new as the one before it.
        """
        repeated, is_new = self._of_last, True
        for line in self._cluster.pod_log(self._pod, CONTAINER, self._since(), follow):
            self._patience.rest()
            when, text = _timed(line)
            if when is not None:
                is_new = when > self._last or (when == self._last and not repeated)
                if when == self._last and repeated:
                    repeated -= 1
            if not is_new:
                continue
            if when is not None:
                self._of_last = self._of_last + 1 if when == self._last else 1
                self._last, self._read_at, repeated = when, time.monotonic(), 0
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
        return phase(pod) in ("Succeeded", "Failed")


def _timed(line: str) -> tuple[int | None, str]:
    """The time of a line, in nanoseconds, and its text; None and all of it if it has no time."""
    stamp, _, text = line.partition(" ")
    match = _STAMP.fullmatch(stamp)
    if match is None:
        return None, line
    seconds = datetime.fromisoformat(match["seconds"] + match["zone"]).timestamp()
    return int(seconds) * 10**9 + int((match["fraction"] or "0").ljust(9, "0")[:9]), text


def phase(pod: Object) -> str:
    """Of a pod: `Running`; empty before anybody has looked."""
    return str(pod.get("status", {}).get("phase", ""))
