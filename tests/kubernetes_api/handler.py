"""One request after the other: who asks, what for, and the answer."""

import json
import math
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

from kubernetes_api.discovery import discovered
from kubernetes_api.kinds import InvalidError, validate
from kubernetes_api.store import RefusedError


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        self.parts = urlsplit(self.path)
        self.query = dict(parse_qsl(self.parts.query))
        self.fault = None
        size = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(size)
        try:
            self.user = self.known_user()
            if self.command == "GET" and (known := discovered(self.parts.path, self.server.kinds)):
                self.answer(200, known)
                return
            if not any(self.parts.path.startswith(f"{kind.root}/") for kind in self.server.kinds):
                self.plain_404()
                return
            self.body = self.decoded(raw)
            self.serve()
        except RefusedError as refused:
            self.answer(refused.code, status_of(refused), refused.headers)
        except InvalidError as invalid:
            self.answer(invalid.status, status_of(self.invalid(invalid)))
        except UnknownError:
            self.plain_404()
        except DroppedError:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    # The names are http.server's.
    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815  # noqa: N815

    def known_user(self):
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if "" in self.server.tokens and not token:
            return self.server.tokens[""]  # anonymous: kubectl sends no token without TLS
        if scheme != "Bearer" or token not in self.server.tokens:
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        return self.server.tokens[token]

    def decoded(self, raw):
        if not raw:
            return {}
        kind = self.headers.get("Content-Type", "application/json").partition(";")[0]
        accepted = {
            "POST": {"application/json", "application/yaml"},
            "PATCH": {"application/merge-patch+json", "application/strategic-merge-patch+json"},
        }.get(self.command, {"application/json"})
        if kind not in accepted:
            raise RefusedError(
                415, "UnsupportedMediaType", f"the body is in unsupported format {kind}"
            )
        try:
            return json.loads(raw)
        except ValueError as error:
            raise RefusedError(400, "BadRequest", f"the body is no JSON: {error}") from None

    def serve(self):
        kind, self.namespace, self.name, sub = self.route()
        self.kind = kind
        verb = self.verb()
        self.server.calls.append((verb, kind.plural + (f"/{sub}" if sub else ""), self.name))
        self.authorize(verb, kind, sub)
        self.take_fault("log" if sub == "log" else verb, kind)
        if sub == "log":
            return self.serve_log()
        if sub not in (None, "status"):
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        answer = getattr(self, f"serve_{verb}")()
        if self.fault and self.fault.what == "lose":
            raise DroppedError
        if answer is not None:
            self.answer(*answer)
        return None

    def route(self):
        for kind in self.server.kinds:
            prefix = f"{kind.root}/"
            if not self.parts.path.startswith(prefix):
                continue
            words = self.parts.path.removeprefix(prefix).split("/")
            namespace = None
            if words[0] == "namespaces" and len(words) > 2:
                namespace, words = words[1], words[2:]
            if words[0] == kind.plural:
                return kind, namespace, *[*words[1:], None, None][:2]
        raise UnknownError

    def verb(self):
        if self.command == "GET":
            if self.query.get("watch") in ("true", "True", "1"):
                return "watch"
            return "get" if self.name else "list"
        return {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}[
            self.command
        ]

    def authorize(self, verb, kind, sub):
        user, allowed = self.user
        what = kind.plural + (f"/{sub}" if sub else "")
        if allowed is not None and (verb, what) not in allowed:
            name = f' "{self.name}"' if self.name else ""
            message = (
                f'{kind.people}{name} is forbidden: User "{user}" cannot {verb} resource "{what}"'
                f' in API group "{kind.group}" in the namespace "{self.namespace}"'
            )
            raise RefusedError(403, "Forbidden", message, name=self.name, kind=kind.plural)

    def take_fault(self, verb, kind):
        for fault in self.server.faults:
            if (fault.verb, fault.plural) == (verb, kind.plural):
                self.server.faults.remove(fault)
                self.fault = fault
                if fault.then:
                    fault.then()
                if fault.what == "drop":
                    raise DroppedError
                if isinstance(fault.what, int):
                    refused = RefusedError(fault.what, "TooManyRequests", "a fault of the test")
                    refused.headers = fault.headers or {}
                    raise refused
                return

    def serve_get(self):
        return 200, self.server.store.get(self.kind, self.namespace, self.name)

    def serve_list(self):
        query = self.query
        found, version = self.server.store.list(
            self.kind,
            self.namespace,
            query.get("labelSelector", ""),
            query.get("fieldSelector", ""),
        )
        items = [
            {k: v for k, v in each.items() if k not in ("apiVersion", "kind")} for each in found
        ]
        if self.kind.group not in ("", "policy"):
            items = found  # custom resources keep theirs in lists
        return 200, {
            "apiVersion": self.kind.api_version,
            "kind": f"{self.kind.kind}List",
            "metadata": {"resourceVersion": version},
            "items": items,
        }

    def serve_create(self):
        if self.namespace not in self.server.namespaces:
            message = f'namespaces "{self.namespace}" not found'
            raise RefusedError(404, "NotFound", message, name=self.namespace, kind="namespaces")
        self.body.pop("status", None)
        if self.body.get("metadata", {}).get("namespace", self.namespace) != self.namespace:
            raise RefusedError(
                400, "BadRequest", "the namespace of the object is not that of the request"
            )
        if self.query.get("fieldValidation") == "Strict":
            validate(self.kind, self.body)
        there = len(self.server.names(self.kind.plural))
        dry = self.query.get("dryRun") == "All"
        if not dry and there >= self.server.quota.get(self.kind.plural, math.inf):
            name = self.body["metadata"]["name"]
            message = (
                f'{self.kind.people} "{name}" is forbidden: exceeded quota: tap, used: {there}'
            )
            raise RefusedError(403, "Forbidden", message, name=name, kind=self.kind.plural)
        return 201, self.server.store.create(self.kind, self.namespace, self.body, dry)

    def serve_patch(self):
        if self.kind.group not in ("", "policy") and "strategic" in self.headers["Content-Type"]:
            raise RefusedError(
                415, "UnsupportedMediaType", "no strategic merge for custom resources"
            )
        self.body.pop("status", None)
        return 200, self.server.store.patch(self.kind, self.namespace, self.name, self.body)

    def serve_delete(self):
        options = self.body | self.query
        grace = options.get("gracePeriodSeconds")
        left = self.server.store.delete(
            self.kind,
            self.namespace,
            self.name,
            options.get("propagationPolicy", "Background"),
            None if grace is None else int(grace),
            options.get("preconditions", {}).get("uid") if self.body else None,
        )
        if left is not None:
            return 200, left
        details = {"name": self.name, "kind": self.kind.plural}
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}

    def serve_watch(self):
        store, query = self.server.store, self.query
        deadline = time.monotonic() + float(query.get("timeoutSeconds", 1800))
        version = int(query.get("resourceVersion") or 0)
        selectors = query.get("labelSelector", ""), query.get("fieldSelector", "")
        self.begin_stream()
        sent = 0
        while not self.server.ending.is_set():
            with store.changed:
                if version < store.oldest:
                    gone = RefusedError(410, "Expired", "too old resource version")
                    self.chunk({"type": "ERROR", "object": status_of(gone)})
                    break
                events, version = store.events_after(
                    version, self.kind.plural, self.namespace, *selectors
                )
                left = deadline - time.monotonic()
                if not events and left > 0:
                    store.changed.wait(min(left, 0.2))
            for event in events:
                self.chunk(event)
                sent += 1
                if self.fault and self.fault.what == "cut" and sent >= self.fault.lines:
                    raise DroppedError
            if left <= 0:
                if query.get("allowWatchBookmarks") in ("true", "True"):
                    metadata = {"resourceVersion": str(version)}
                    bookmark = {"kind": self.kind.kind, "metadata": metadata}
                    self.chunk({"type": "BOOKMARK", "object": bookmark})
                break
        self.end_stream()

    def serve_log(self):
        pod = self.server.store.get(self.kind, self.namespace, self.name)
        names = [each["name"] for each in pod["spec"]["containers"]]
        container = self.query.get("container", names[0])
        if container not in names:
            raise RefusedError(
                400, "BadRequest", f"container {container} is not valid for pod {self.name}"
            )
        if pod.get("status", {}).get("phase", "Pending") == "Pending":
            message = f'container "{container}" in pod "{self.name}" is waiting to start'
            raise RefusedError(400, "BadRequest", message)
        log = self.server.log(self.name, container)
        since = self.query.get("sinceSeconds")
        oldest = datetime.now(UTC).timestamp() - float(since) if since else 0
        follow = self.query.get("follow") in ("true", "True")
        self.begin_stream("text/plain")
        sent = read = 0
        while True:
            ended = log.ended or not follow or self.is_deleted()
            for moment, text in log.lines[read:]:
                read += 1
                if moment.timestamp() >= oldest:
                    stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z ")
                    self.chunk(stamp + text if self.query.get("timestamps") else text)
                    sent += 1
                    if self.fault and self.fault.what == "cut" and sent >= self.fault.lines:
                        raise DroppedError
            if ended or self.server.ending.wait(0.02):
                break
        self.end_stream()

    def is_deleted(self):
        return (self.kind.plural, self.namespace, self.name) not in self.server.store.objects

    def plain_404(self):
        """What the router says, which knows no such path."""
        self.send_response(404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", "19")
        self.end_headers()
        self.wfile.write(b"404 page not found\n")

    def invalid(self, invalid):
        name = self.body.get("metadata", {}).get("name", "")
        causes = [{"field": field, "message": message} for field, message in invalid.causes]
        if invalid.status == 400:
            told = ", ".join(
                f'unknown field "{each["field"]}": {each["message"]}' for each in causes
            )
            message = f"{self.kind.kind} cannot be handled: strict decoding error: {told}"
            return RefusedError(400, "BadRequest", message)
        told = "; ".join(f"{each['field']}: {each['message']}" for each in causes)
        message = f'{self.kind.kind}.{self.kind.group} "{name}" is invalid: {told}'
        return RefusedError(422, "Invalid", message, name=name, kind=self.kind.kind, causes=causes)

    def answer(self, code, body, headers=None):
        raw = json.dumps(body).encode()
        self.send_response(code)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def begin_stream(self, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, value):
        raw = (value if isinstance(value, str) else json.dumps(value)).encode() + b"\n"
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def end_stream(self):
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


class DroppedError(Exception):
    """The connection ends without a word."""


class UnknownError(Exception):
    """No kind of this server."""


def status_of(refused):
    details = {key: value for key, value in refused.details.items() if value is not None}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": refused.message,
        "reason": refused.reason,
        "details": details,
        "code": refused.code,
    }
