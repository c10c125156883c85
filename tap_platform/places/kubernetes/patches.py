"""A site's fragment laid over a pod template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MERGED = frozenset({"containers", "initContainers", "ephemeralContainers"})
"""Lists whose items are merged key by key. The items of others are one thing each: a volume of two
sources, or a variable of two values, is none."""


def patched(template: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A template with a patch laid over it; neither is changed.

    Mappings are merged key by key, and null takes a key away. Lists of named things are merged by
    name, mounts by their path; new ones come last. All other lists are replaced.
    """
    merged = dict(template)
    for key, change in patch.items():
        if change is None:
            merged.pop(key, None)
        else:
            merged[key] = _laid_over(key, merged.get(key), change)
    return merged


def _laid_over(key: str, value: Any, change: Any) -> Any:
    if isinstance(change, Mapping):
        return patched(value if isinstance(value, Mapping) else {}, change)
    identity = "mountPath" if key == "volumeMounts" else "name"
    if _all_have(identity, change) and _all_have(identity, value):
        return _by_identity(value, change, identity, key in _MERGED)
    return change


def _all_have(identity: str, items: Any) -> bool:
    return isinstance(items, Sequence) and all(
        isinstance(item, Mapping) and identity in item for item in items
    )


def _by_identity(
    items: Sequence[Mapping[str, Any]],
    changes: Sequence[Mapping[str, Any]],
    identity: str,
    merge: bool,
) -> list[dict[str, Any]]:
    known = {item[identity]: dict(item) for item in items}
    for change in changes:
        name = change[identity]
        known[name] = patched(known.get(name, {}), change if merge else {})
        if not merge:
            known[name] = dict(change)
    return list(known.values())
