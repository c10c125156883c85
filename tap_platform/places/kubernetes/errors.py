"""What an API server's refusal means, and what to do about it."""

from __future__ import annotations

import json
from typing import Any

from tap_platform.places.kubernetes.resources import RAY_JOBS, Resource


class RefusedError(ValueError):
    """The API server said no; the message is for people."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP; 0 if there was no answer."""
        self.tries = 1
        """How often the server was asked; of an earlier try, the answer may be lost."""


class NotThereError(RefusedError):
    """The object, its namespace or its kind does not exist."""


class UnknownKindError(NotThereError):
    """The cluster does not have this kind of object."""


class ForbiddenError(RefusedError):
    """Who asks may not."""


class TakenError(RefusedError):
    """An object of that name exists already, or has changed meanwhile."""


class GoneError(RefusedError):
    """What a watch asks to go on from is too long ago."""


def refusal(
    status: int, body: str, verb: str, resource: Resource, name: str | None, where: str
) -> RefusedError:
    """The error that an answer means.

    Args:
        status: of HTTP.
        body: what the server said.
        verb: what was asked for, as roles name it: `create`.
        resource: kind of object.
        name: of the object, if one was asked for.
        where: context and namespace, for people.
    """
    told = _status(body)
    what = f"{resource.kind} {name}" if name else resource.plural
    if status == 403:
        return ForbiddenError(_forbidden(told, verb, resource, where), status)
    if status == 404:
        return _not_there(told, resource, what, where)
    kind = {409: TakenError, 410: GoneError}.get(status, RefusedError)
    return kind(f"{where}: {_said(status, told, body, verb, what)}", status)


def no_answer(error: Exception, verb: str, resource: Resource, where: str) -> RefusedError:
    """The error for a server that is not reached."""
    cause = getattr(error, "reason", None) or error
    return RefusedError(
        f"{where}: the API server gives no answer to {verb} {resource.plural} ({cause}): is the"
        " address of the kube config right, and the network (VPN, proxy) up?",
        0,
    )


def _said(status: int, told: dict[str, Any], body: str, verb: str, what: str) -> str:
    message = told.get("message") or body.strip()[:500] or "without a word"
    if status == 401:
        return (
            "the API server does not know who asks (401): the token or certificate of the kube"
            " config has expired or is wrong; log in again"
        )
    if status in (400, 422):
        causes = (told.get("details") or {}).get("causes") or []
        lines = [f"  {each.get('field', '')}: {each.get('message', '')}" for each in causes]
        return "\n".join([f"{what} is refused:", *(lines or [f"  {message}"])])
    return f"cannot {verb} {what} ({status}): {message}"


def _status(body: str) -> dict[str, Any]:
    """The server's `Status`; empty if it said something else."""
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _forbidden(told: dict[str, Any], verb: str, resource: Resource, where: str) -> str:
    message = told.get("message", "")
    if "exceeded quota" in message:
        return (
            f"{where}: the namespace's quota is used up: {message}; wait for runs to end, ask for"
            " less, or have the ResourceQuota raised"
        )
    if told and "cannot" not in message:
        return f"{where}: an admission rule refuses {resource.plural}: {message}"
    role = "tap-viewer" if verb in ("get", "list", "watch") else "tap-submitter"
    return (
        f"{where}: you may not {verb} {resource.people} (403): ask for the role {role}"
        f" (cluster/namespace), or another with this verb. The server says: {message}"
    )


def _not_there(told: dict[str, Any], resource: Resource, what: str, where: str) -> NotThereError:
    details = told.get("details") or {}
    if details.get("kind") == "namespaces":
        return NotThereError(
            f"{where}: there is no such namespace: name another in the profile, or make it: kubectl"
            " apply -k cluster/namespace",
            404,
        )
    if details.get("name"):
        return NotThereError(f"{where}: there is no {what}", 404)
    cure = "install KubeRay" if resource == RAY_JOBS else "is what has them installed?"
    return UnknownKindError(
        f"{where}: the cluster does not know {resource.people} (404): {cure}", 404
    )
