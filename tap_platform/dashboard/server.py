"""Serves the pages over HTTP, to this computer alone unless a password is asked for."""

from __future__ import annotations

import signal
import socket
from types import FrameType
from typing import NoReturn

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tap_platform.dashboard.access import PasswordGate, in_url
from tap_platform.dashboard.pages import ASSETS, FIRST, Content
from tap_platform.dashboard.site import Site

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_FOREIGN_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
"""Of a page that a run has made: no script of it runs."""
_LOOPBACK_NAMES = ["localhost", "127.0.0.1", "::1", "[::1]"]
"""What a browser calls this computer; other names are another site's, which leads here."""


def application(
    site: Site, password: str | None, mlflow_port: int | None = None, host: str = "127.0.0.1"
) -> Starlette:
    """The pages as an ASGI application.

    Args:
        site: what it shows.
        password: what it asks for; None to ask for nothing, and to answer this computer alone.
        mlflow_port: where MLflow listens on the same host.
        host: where it listens, which is a name of this computer too.
    """
    names = [*_LOOPBACK_NAMES, host]

    async def page(request: Request) -> Response:
        site.freshen()
        address = request.path_params.get("address") or FIRST
        content = await run_in_threadpool(site.pages.content, address)
        return _missing() if content is None else _answer(content, address)

    async def version(request: Request) -> Response:
        site.freshen()
        return PlainTextResponse(site.version, headers={"Cache-Control": "no-store"})

    async def mlflow(request: Request) -> Response:
        if mlflow_port is None:
            return _missing()
        return RedirectResponse(f"http://{in_url(request.url.hostname or host)}:{mlflow_port}/")

    guard = (
        Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)
        if password is None
        else Middleware(PasswordGate, password=password)
    )
    routes = [
        Route("/version", version),
        Route("/mlflow", mlflow),
        Route("/", page),
        Route("/{address:path}", page),
    ]
    return Starlette(routes=routes, middleware=[guard, Middleware(GZipMiddleware, compresslevel=4)])


def _answer(content: Content, address: str) -> Response:
    lasting = address in ASSETS or address.startswith("pictures/")
    headers = {
        "Content-Security-Policy": _FOREIGN_POLICY if content.is_foreign else _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "private, max-age=3600" if lasting else "no-cache",
    }
    return Response(content.body, media_type=content.kind, headers=headers)


def _missing() -> Response:
    return PlainTextResponse("there is no such page: start at /\n", 404)


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve at; a port of 0 is any that is free.

    Raises:
        ValueError: the port is taken, or the host is not this computer's.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host}:{port} ({error.strerror}): choose another --port"
        ) from error


def serve(app: Starlette, at: socket.socket) -> None:
    """Serve until Ctrl-C, SIGTERM or the end of the terminal; returns then."""
    config = uvicorn.Config(
        app, log_level="warning", server_header=False, timeout_graceful_shutdown=3
    )
    try:
        uvicorn.Server(config).run(sockets=[at])
    except KeyboardInterrupt:
        return


def end_as_by_ctrl_c() -> None:
    """Let SIGTERM and a closed terminal end as Ctrl-C does, so that what was started ends too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` asks
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
