"""Looking on while objects change, whatever the network does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from tap_platform.places.kubernetes.client import Cluster, DroppedError, Object
from tap_platform.places.kubernetes.errors import GoneError
from tap_platform.places.kubernetes.resources import Resource

PAUSE_SECONDS = 0.5
"""Before a watch that broke is taken up again."""


def snapshots(cluster: Cluster, resource: Resource, labels: str) -> Iterator[dict[str, Object]]:
    """The objects with these labels by name: now, after each change, and every half minute.

    A watch that ends is taken up where it was; where the server no longer knows that, the objects
    are listed anew.

    Raises:
        RefusedError: if the server refuses, or does not come back.
    """
    while True:
        listing = cluster.listing(resource, labels)
        there = {each["metadata"]["name"]: each for each in listing["items"]}
        version = listing["metadata"]["resourceVersion"]
        yield dict(there)
        with suppress(GoneError):
            yield from _changes(cluster, resource, labels, there, version)


def _changes(
    cluster: Cluster, resource: Resource, labels: str, there: dict[str, Object], version: str
) -> Iterator[dict[str, Object]]:
    """The same after each change since a version, until the server has forgotten it."""
    while True:
        try:
            for event in cluster.watch(resource, labels, version):
                metadata = event["object"]["metadata"]
                version = metadata["resourceVersion"]
                if event["type"] == "BOOKMARK":
                    continue
                if event["type"] == "DELETED":
                    there.pop(metadata["name"], None)
                else:
                    there[metadata["name"]] = event["object"]
                yield dict(there)
        except DroppedError:
            time.sleep(PAUSE_SECONDS)
        yield dict(there)
