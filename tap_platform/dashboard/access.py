"""Who may see the pages: this computer's people, or those who know the password."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import secrets

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PASSWORD = "TAP_DASHBOARD_PASSWORD"
"""Variable with the password of `--auth`."""
USER = "admin"
"""Whom browsers and MLflow's clients name with it."""
SHORTEST = 12
"""Characters of a password, at least: MLflow wants so many."""


def is_loopback(host: str) -> bool:
    """Whether only programs of this computer reach an address to listen at."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def in_url(host: str) -> str:
    """An address as URLs have it: that of IPv6 in brackets."""
    return f"[{host.strip('[]')}]" if ":" in host else host


def password_for(host: str, auth: bool) -> str | None:
    """The password to ask for; None where none is asked for.

    Raises:
        ValueError: others would see everything, or the password is missing or too short.
    """
    if not auth:
        if not is_loopback(host):
            raise ValueError(
                f"--host {host} shows all runs to everybody who reaches this computer: add --auth,"
                " or leave the host and reach it by ssh -L 8800:localhost:8800"
            )
        return None
    password = os.environ.get(PASSWORD, "")
    if len(password) < SHORTEST:
        is_there = f"has {len(password)} characters" if password else "is not set"
        raise ValueError(
            f"--auth asks for the password in the variable {PASSWORD}, which {is_there}: export one"
            f" of {SHORTEST} characters or more; the user is {USER}"
        )
    return password


class PasswordGate:
    """Lets only those through who know the password (HTTP Basic)."""

    def __init__(self, app: ASGIApp, password: str) -> None:
        self._app = app
        self._wanted = f"{USER}:{password}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or ask for the password."""
        if scope["type"] != "http" or self._is_known(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        asked = {"WWW-Authenticate": 'Basic realm="TAP dashboard", charset="UTF-8"'}
        await PlainTextResponse("a password is needed\n", 401, asked)(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        kind, _, told = headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(told, validate=True)
        except (binascii.Error, ValueError):
            return False
        return kind.lower() == "basic" and secrets.compare_digest(given, self._wanted)
