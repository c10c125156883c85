"""A small HTTP server of byte ranges that fails as it is told to."""

from http.server import BaseHTTPRequestHandler

from loopback_server import LoopbackServer, serving

HANGING_SECONDS = 5


class FlakyServer(LoopbackServer):
    """Serves `files` (path to bytes); each GET of a path first takes a fault from `faults[path]`.

    A fault is a status, "hang" (no answer until the server ends), "cut" (half of what is promised),
    "drop" (the connection ends without a word) or "whole" (the whole file, ranges unheard).
    """

    def __init__(self):
        super().__init__(_Handler)
        self.files, self.faults, self.gets = {}, {}, []

    def take_fault(self, path):
        faults = self.faults.get(path, [])
        if isinstance(faults, list):
            return faults.pop(0) if faults else None
        return faults


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(*self._found())

    def do_GET(self):
        self.server.gets.append((self.path, self.headers.get("Range")))
        fault = self.server.take_fault(self.path)
        status, body = self._found(ranged=fault != "whole")
        if fault == "hang":
            self.server.ending.wait(HANGING_SECONDS)
            self.close_connection = True
        elif fault == "drop":
            self.close_connection = True
        elif fault == "cut":
            self._answer(status, body, body[: len(body) // 2])
            self.close_connection = True
        elif isinstance(fault, int):
            self._answer(fault, b"", b"")
        else:
            self._answer(status, body, body)

    def _found(self, ranged=True):
        if self.path.endswith("/"):
            names = [
                p.removeprefix(self.path) for p in self.server.files if p.startswith(self.path)
            ]
            return 200, "".join(f'<a href="{n}">{n}</a>' for n in names).encode()
        data = self.server.files.get(self.path)
        if data is None:
            return 404, b""
        if not ranged or "Range" not in self.headers:
            return 200, data
        start, stop = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
        return (206, data[start : stop + 1]) if start < len(data) else (416, b"")

    def _answer(self, status, body, sent=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "x/tar")
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


def flaky_server():
    return serving(FlakyServer())
