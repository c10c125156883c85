"""What a fragment of a pod template may look like, as far as all pods are alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_TEXTS = ("labels", "annotations")
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_SHELLS = {"volumeMounts": "mountPath", "volumeDevices": "devicePath"}
"""Lists of a container by what tells their items apart, where that is no name."""


def pod_faults(patch: Mapping[str, Any]) -> Iterator[str]:
    """What makes a fragment none of a pod template; null, which takes a key away, is no fault.

    Args:
        patch: the fragment, `{metadata: {…}, spec: {…}}`.
    """
    metadata, spec = patch.get("metadata"), patch.get("spec")
    yield from _of_mapping("metadata", metadata)
    yield from _of_mapping("spec", spec)
    if isinstance(metadata, Mapping):
        for key in _TEXTS:
            yield from _of_texts(f"metadata.{key}", metadata.get(key))
    if isinstance(spec, Mapping):
        yield from _of_texts("spec.nodeSelector", spec.get("nodeSelector"))
        yield from _of_items("spec.volumes", spec.get("volumes"), "name")
        for key in _CONTAINERS:
            yield from _of_containers(f"spec.{key}", spec.get(key))


def _of_containers(where: str, containers: Any) -> Iterator[str]:
    if faults := list(_of_items(where, containers, "name")):
        yield from faults
        return
    for container in containers or ():
        named = f"{where}.{container['name']}"
        for key, identity in {"env": "name", "ports": "containerPort", **_SHELLS}.items():
            yield from _of_items(f"{named}.{key}", container.get(key), identity)
        yield from _of_mapping(f"{named}.resources", container.get("resources"))


def _of_mapping(where: str, value: Any) -> Iterator[str]:
    if value is not None and not isinstance(value, Mapping):
        yield f"{where} is {value!r}, and must be a mapping"


def _of_texts(where: str, value: Any) -> Iterator[str]:
    yield from _of_mapping(where, value)
    for key, text in value.items() if isinstance(value, Mapping) else ():
        if not isinstance(key, str) or not isinstance(text, str | None):
            yield f'{where}: {key!r} is {text!r}, and must be a text: write "{text}" with quotes'


def _of_items(where: str, items: Any, identity: str) -> Iterator[str]:
    """A list of mappings that each have what tells them apart."""
    if items is None:
        return
    if not isinstance(items, list | tuple):
        yield f"{where} is {items!r}, and must be a list"
        return
    for number, item in enumerate(items):
        if not isinstance(item, Mapping) or item.get(identity) is None:
            yield f"{where}[{number}] has no {identity}"
        elif identity == "name" and not isinstance(item["name"], str):
            yield f"{where}[{number}].name is {item['name']!r}, and must be a text"
