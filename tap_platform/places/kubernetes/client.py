"""One namespace of one Kubernetes cluster: objects in and out, as plain mappings.

Every call has a timeout. What may pass (a lost connection, a server that is busy or failing) is
tried again; what remains is a `RefusedError` with a sentence for people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from tap_platform.places.kubernetes.connection import configuration, pause, worth_another_try
from tap_platform.places.kubernetes.errors import (
    NotThereError,
    UnknownKindError,
    no_answer,
    refusal,
)
from tap_platform.places.kubernetes.resources import PODS, Resource

Object = dict[str, Any]

TIMEOUT = (5.0, 30.0)
"""Seconds to connect, and to wait for an answer."""
STREAM_SECONDS = 60
"""After so long a stream on which nothing comes is taken up anew: its connection may be dead."""
TRIES = 6
_OF_CORE = {"get": "read", "watch": "list", "log": "read"}
_SHARED = {"watch": "list"}


class Cluster:
    """Asks the API server of a kube config's context."""

    def __init__(self, context: str | None, namespace: str) -> None:
        """Read the kube config (KUBECONFIG, ~/.kube/config, or a pod's own); ask nothing yet.

        Raises:
            ValueError: if there is none, or it has no such context.
        """
        from kubernetes import client

        self.namespace = namespace
        self.where = f"{context or 'Kubernetes'}, namespace {namespace}"
        api = client.ApiClient(configuration(context))
        self._core = client.CoreV1Api(api)
        self._custom = client.CustomObjectsApi(api)

    def create(self, resource: Resource, body: Object, *, dry: bool = False) -> Object:
        """Make an object; fields that the server does not know are an error.

        Args:
            resource: its kind.
            body: the manifest.
            dry: only ask whether the server would.

        Raises:
            TakenError: if there is one of that name.
            RefusedError: if it is refused.
        """
        name = body["metadata"]["name"]
        options: Object = {"body": body, "field_validation": "Strict"}
        if dry:
            options["dry_run"] = "All"
        return self._object("create", resource, name, **options)

    def get(self, resource: Resource, name: str) -> Object:
        """An object.

        Raises:
            NotThereError: if there is none.
            RefusedError: if it is refused.
        """
        return self._object("get", resource, name)

    def list(self, resource: Resource, labels: str = "") -> list[Object]:
        """The objects with these labels.

        Raises:
            RefusedError: if it is refused.
        """
        listed = self._object("list", resource, None, label_selector=labels)
        items: list[Object] = listed["items"]
        return items

    def listing(self, resource: Resource, labels: str) -> Object:
        """The same with its `metadata`, for a watch to go on from."""
        return self._object("list", resource, None, label_selector=labels)

    def patch(self, resource: Resource, name: str, change: Object) -> Object:
        """Lay a change over an object (JSON merge patch).

        Raises:
            NotThereError: if there is none.
            RefusedError: if it is refused.
        """
        kind = "application/merge-patch+json"
        return self._object("patch", resource, name, body=change, _content_type=kind)

    def delete(
        self, resource: Resource, name: str, *, foreground: bool = False, now: bool = False
    ) -> None:
        """Have an object and what it owns deleted.

        Args:
            resource: its kind.
            name: of the object.
            foreground: keep the object until what it owns is gone.
            now: leave no time to end, of a pod.

        Raises:
            NotThereError: if there is none.
            RefusedError: if it is refused.
        """
        options: Object = {"propagation_policy": "Foreground" if foreground else "Background"}
        if now:
            options["grace_period_seconds"] = 0
        try:
            self._object("delete", resource, name, **options)
        except NotThereError as error:
            # It was there for a try whose answer did not come.
            if error.tries == 1 or isinstance(error, UnknownKindError):
                raise

    def watch(self, resource: Resource, labels: str, version: str) -> Iterator[Object]:
        """Changes since a version, as the server sends them; ends when it does.

        Raises:
            DroppedError: if the connection breaks, or nothing comes for a minute.
            RefusedError: if it is refused; a `GoneError` if the version is too old.
        """
        options = {
            "label_selector": labels,
            "resource_version": version,
            "allow_watch_bookmarks": True,
            "timeout_seconds": STREAM_SECONDS // 2,
            "watch": True,
        }
        for line in self._stream("watch", resource, None, options):
            event = json.loads(line)
            if event["type"] == "ERROR":
                told = event["object"]
                code = told.get("code", 500)
                raise refusal(code, json.dumps(told), "watch", resource, None, self.where)
            yield event

    def pod_log(self, pod: str, container: str, since: int | None, follow: bool) -> Iterator[str]:
        """Lines of a container, each behind its time.

        Args:
            pod: its name.
            container: in it.
            since: seconds ago to begin at; None is the beginning.
            follow: whether to wait for more.

        Raises:
            DroppedError: if the connection breaks, or nothing comes for a minute.
            RefusedError: if it is refused, with status 400 if the container has not begun.
        """
        options = {"container": container, "follow": follow, "timestamps": True}
        if since is not None:
            options["since_seconds"] = since
        for line in self._stream("log", PODS, pod, options):
            yield line.decode(errors="replace")

    def _object(self, verb: str, resource: Resource, name: str | None, **options: Any) -> Object:
        response = self._call(verb, resource, name, _request_timeout=TIMEOUT, **options)
        answer: Object = json.loads(response.data)
        return answer

    def _stream(
        self, verb: str, resource: Resource, name: str | None, options: Mapping[str, Any]
    ) -> Iterator[bytes]:
        """The lines of an answer as they come."""
        from urllib3.exceptions import HTTPError

        timeout = (TIMEOUT[0], float(STREAM_SECONDS))
        response = self._call(verb, resource, name, _request_timeout=timeout, **options)
        begun = b""
        try:
            for chunk in response.stream(2**16):
                *lines, begun = (begun + chunk).split(b"\n")
                yield from lines
        except HTTPError as error:
            raise DroppedError(str(error)) from error
        finally:
            response.close()
        if begun:
            yield begun

    def _call(self, verb: str, resource: Resource, name: str | None, **options: Any) -> Any:
        """The server's answer, its content unread."""
        from kubernetes.client.exceptions import ApiException
        from tenacity import Retrying, retry_if_exception, stop_after_attempt
        from urllib3.exceptions import HTTPError

        call = self._method(verb, resource)
        names = {"namespace": self.namespace}
        if name is not None and verb != "create":
            names["name"] = name
        asked = "get" if verb == "log" else verb
        tries = Retrying(
            stop=stop_after_attempt(TRIES),
            wait=pause,
            retry=retry_if_exception(worth_another_try),
            reraise=True,
        )
        try:
            return tries(call, **names, **options, _preload_content=False)
        except ApiException as error:
            if not error.status:
                raise no_answer(error, asked, resource, self.where) from None
            said = error.body.decode() if isinstance(error.body, bytes) else error.body or ""
            refused = refusal(error.status, said, asked, resource, name, self.where)
            refused.tries = tries.statistics["attempt_number"]
            raise refused from None
        except HTTPError as error:
            raise no_answer(error, asked, resource, self.where) from None

    def _method(self, verb: str, resource: Resource) -> Callable[..., Any]:
        """The client's method: core kinds have their own, all others share one."""
        if not resource.group:
            tail = "_log" if verb == "log" else ""
            name = f"{_OF_CORE.get(verb, verb)}_namespaced_{resource.snake}{tail}"
            method: Callable[..., Any] = getattr(self._core, name)
            return method
        shared = getattr(self._custom, f"{_SHARED.get(verb, verb)}_namespaced_custom_object")
        return partial(
            shared, group=resource.group, version=resource.version, plural=resource.plural
        )


class DroppedError(Exception):
    """A stream broke off; take it up anew."""
