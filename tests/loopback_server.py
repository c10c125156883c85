"""An HTTP server of a test, on a port of its own, that ends at once whatever it is asked."""

import socket
import threading
from contextlib import contextmanager, suppress
from http.server import ThreadingHTTPServer


class LoopbackServer(ThreadingHTTPServer):
    """Its handlers may wait for `ending`, to hang until the server ends."""

    daemon_threads = True

    def __init__(self, handler, port=0):
        super().__init__(("127.0.0.1", port), handler)
        self.connections, self.ending = [], threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def get_request(self):
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def server_close(self):
        super().server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(server):
    """The server, which answers as long as the block lasts."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
