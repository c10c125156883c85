"""Making a run's objects: all of them, or none.

The server is asked first whether it would take each of them. What it refuses all the same, for
another was faster or a quota is full, is removed again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tap_platform.places.kubernetes.client import Cluster, Object
from tap_platform.places.kubernetes.errors import NotThereError, RefusedError, TakenError
from tap_platform.places.kubernetes.resources import MADE

MARK = "tap-platform/submission"
"""Annotation that tells which call of `apply` made an object."""


def apply(cluster: Cluster, objects: Sequence[Object]) -> None:
    """Make the objects of a run in their order; the last owns the others, which vanish with it.

    Raises:
        TakenError: if one of them exists; nothing that was there is touched.
        RefusedError: if one is refused; those that were made are removed.
    """
    for each in objects:
        cluster.create(MADE[each["kind"]], each, dry=True)
    mark = secrets.token_hex(8)
    marked = [_marked(each, mark) for each in objects]
    with _removed_on_error(cluster, marked, mark):
        made = [_created(cluster, each, mark) for each in marked]
        *owned, owner = made
        for each in owned:
            change = {"metadata": {"ownerReferences": [_as_owner(owner)]}}
            cluster.patch(MADE[each["kind"]], each["metadata"]["name"], change)


def _marked(body: Object, mark: str) -> Object:
    metadata = body["metadata"]
    annotations = {**metadata.get("annotations", {}), MARK: mark}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def _created(cluster: Cluster, body: Object, mark: str) -> Object:
    """The object; one that an answer was lost for is there already, with our mark."""
    resource, name = MADE[body["kind"]], body["metadata"]["name"]
    try:
        made = cluster.create(resource, body)
    except TakenError:
        made = cluster.get(resource, name)
        if not _is_ours(made, mark):
            raise
    # What a client gives back of an object in a list has no kind.
    return {**made, "apiVersion": body["apiVersion"], "kind": body["kind"]}


@contextmanager
def _removed_on_error(cluster: Cluster, objects: Sequence[Object], mark: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        left = [each for each in reversed(objects) if not _is_removed(cluster, each, mark)]
        if left:
            names = ", ".join(f"{each['kind']} {each['metadata']['name']}" for each in left)
            error.add_note(f"it may have left {names}: look, and delete what is there")
        raise


def _is_removed(cluster: Cluster, body: Object, mark: str) -> bool:
    """Remove an object of ours, if it is there; whether that is known to have succeeded."""
    resource, name = MADE[body["kind"]], body["metadata"]["name"]
    try:
        if _is_ours(cluster.get(resource, name), mark):
            with suppress(NotThereError):
                cluster.delete(resource, name)
    except NotThereError:
        return True
    except RefusedError:
        return False
    return True


def _is_ours(body: Object, mark: str) -> bool:
    return bool(body["metadata"].get("annotations", {}).get(MARK) == mark)


def _as_owner(body: Object) -> Object:
    metadata = body["metadata"]
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
