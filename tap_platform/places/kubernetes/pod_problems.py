"""Why a pod does not run, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]

_IMAGE = "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"
_CONFIG = "CreateContainerConfigError", "CreateContainerError", "RunContainerError"
_TELLING_EVENTS = "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"


def pod_problem(pod: Object, events: Sequence[Object] = ()) -> str | None:
    """What is wrong with a pod, and what helps; None if nothing is.

    Args:
        pod: as the API server tells it.
        events: those of the namespace; what concerns other pods is passed over.
    """
    found = [*_of_pod(pod), *_of_containers(pod), *_of_events(pod, events)]
    return f"pod {pod['metadata']['name']}: {found[0]}" if found else None


def _of_pod(pod: Object) -> Iterator[str]:
    status = pod.get("status", {})
    if status.get("reason") == "Evicted":
        yield f"it was evicted from its node ({status.get('message', 'no reason given')})"
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            yield f"it is taken from its node ({condition.get('message', condition.get('reason'))})"
        if condition["type"] != "PodScheduled" or condition["status"] != "False":
            continue
        told = condition.get("message", "no reason given")
        if condition.get("reason") == "Unschedulable":
            yield (
                f"no node takes it ({told}): wait for room or more nodes, or ask for less (the"
                " profile's cpus, memory, node_selector and tolerations)"
            )
        elif condition.get("reason") == "SchedulingGated":
            yield f"a queue holds it back ({told})"


def _of_containers(pod: Object) -> Iterator[str]:
    status = pod.get("status", {})
    statuses = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    for container in statuses:
        state = container.get("state", {})
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        last = (container.get("lastState") or {}).get("terminated") or {}
        yield from _of_waiting(container, waiting)
        if "OOMKilled" in (ended.get("reason"), last.get("reason")):
            yield (
                f"{container['name']} was killed, for it took more memory than its limit: raise"
                " memory in the profile, or lower training.micro_batch or data.reader_tasks"
            )
        elif ended.get("exitCode"):
            told = ended.get("message") or ended.get("reason") or ""
            yield f"{container['name']} ended with exit code {ended['exitCode']} {told}".rstrip()


def _of_waiting(container: Object, waiting: Object) -> Iterator[str]:
    reason, told = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE:
        yield (
            f"the image {container.get('image')} is not pulled ({reason}: {told}): is its name"
            " right, and does image_pull_secrets name a secret of its registry?"
        )
    elif reason in _CONFIG:
        missing = "not found" in told or "couldn't find key" in told
        cure = ": make it, or take it out of the profile's secrets" if missing else ""
        yield f"{container['name']} cannot start ({reason}: {told}){cure}"
    elif reason == "CrashLoopBackOff":
        yield f"{container['name']} ends again and again ({told}): see its log"


def _of_events(pod: Object, events: Sequence[Object]) -> Iterator[str]:
    """What only events tell: a volume, such as of a missing secret or claim, that does not come."""
    if pod.get("status", {}).get("phase") != "Pending":
        return
    uid = pod["metadata"].get("uid")
    for event in events:
        concerned = event.get("involvedObject", {}).get("uid")
        if concerned == uid and event.get("reason") in _TELLING_EVENTS:
            yield f"{event['reason']}: {event.get('message', '')}"
