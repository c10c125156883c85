"""A chat's webhook: a real HTTP server that fails as it is told to."""

import json
import time
from http.server import BaseHTTPRequestHandler

from loopback_server import LoopbackServer, serving


class Chat(LoopbackServer):
    """Keeps the `messages` that were posted; each POST first takes a fault from `faults`.

    A fault is a status, "hang" (no answer until the server ends) or "drop" (no answer at all).
    """

    def __init__(self, port=0):
        super().__init__(_Handler, port)
        self.messages, self.faults, self.posts = [], [], 0
        self.retry_after = None

    @property
    def url(self):
        return f"{super().url}/services/T0/B0/secret-part"

    def texts(self):
        return [message["text"] for message in self.messages]

    def wait_for(self, count, seconds=10.0):
        deadline = time.monotonic() + seconds
        while len(self.messages) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.texts()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        chat = self.server
        chat.posts += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = chat.faults.pop(0) if chat.faults else None
        if fault == "hang":
            chat.ending.wait(30)
        if fault in ("hang", "drop"):
            self.close_connection = True
            return
        if fault is None:
            assert self.headers["Content-Type"] == "application/json"
            chat.messages.append(json.loads(body))
        self.send_response(fault or 200)
        if chat.retry_after is not None:
            self.send_header("Retry-After", str(chat.retry_after))
        if fault == 302:
            self.send_header("Location", "/elsewhere")
        self._end()

    def do_GET(self):
        """Where it has moved to, anybody is answered kindly."""
        self.send_response(200)
        self._end()

    def _end(self):
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


def chat_server(port=0):
    return serving(Chat(port))
