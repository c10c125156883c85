"""The store behind HTTP."""

from datetime import UTC, datetime
from typing import NamedTuple

import yaml
from loopback_server import LoopbackServer, serving

from kubernetes_api.discovery import ALL
from kubernetes_api.handler import Handler
from kubernetes_api.kinds import KINDS
from kubernetes_api.store import Store


class Fault(NamedTuple):
    """What goes wrong with the next call of a verb and kind."""

    verb: str
    plural: str
    what: object
    """A status; `drop` before or `lose` after it is done; `cut` a stream after `lines`."""
    headers: dict | None = None
    lines: int = 0
    then: object = None
    """Called when it happens."""


class Log:
    """What a container prints, and when."""

    def __init__(self):
        self.lines, self.ended = [], False

    def print(self, *texts, when=None):
        for text in texts:
            moment = when or datetime.now(UTC)
            self.lines.append((moment, text))


class ApiServer(LoopbackServer):
    """An API server with one namespace, `tap`, and one user, whose token is `good`."""

    def __init__(self):
        super().__init__(Handler)
        self.store = Store()
        self.namespaces = {"tap"}
        self.kinds = list(KINDS)
        self.tokens = {"good": ("alice", None)}
        self.faults, self.calls, self.logs, self.quota = [], [], {}, {}

    def kube_config(self, path, token="good", namespace="tap"):
        """Write a kube config for this server."""
        named = {"name": "test"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{**named, "cluster": {"server": self.url}}],
            "users": [{**named, "user": {"token": token}}],
            "contexts": [
                {**named, "context": {"cluster": "test", "user": "test", "namespace": namespace}}
            ],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def put(self, plural, name, **body):
        """Make an object as a controller would, its status included."""
        kind = self.kind(plural)
        metadata = {"name": name, **body.pop("metadata", {})}
        made = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **body}
        return self.store.create(kind, "tap", made)

    def set(self, plural, name, **change):
        """Change an object as a controller would, its status included."""
        return self.store.patch(self.kind(plural), "tap", name, change)

    def names(self, plural):
        return [each["metadata"]["name"] for each in self.store.list(self.kind(plural), "tap")[0]]

    def kind(self, plural):
        return next(kind for kind in self.kinds if kind.plural == plural)

    def log(self, pod, container="ray-job-submitter"):
        return self.logs.setdefault((pod, container), Log())

    def handle_error(self, request, address):
        pass  # connections that we cut ourselves


def api_server():
    return serving(ApiServer())


__all__ = ["ALL", "Fault", "api_server"]
