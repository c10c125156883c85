"""Sends JSON to an address that nobody else may see."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

TIMEOUT_SECONDS = 10.0
TRIES = 3
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_OF_THE_MESSAGE = frozenset({400, 413, 422})
"""Answers by which a message is refused for what it says: it would be every time."""
_ADDRESS = re.compile(r"https?://[!-~]+")


class WebhookError(RuntimeError):
    """An alert that was not taken; the message tells no address."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        """Tell why.

        Args:
            message: for people.
            is_final: whether this alert would be refused again, and others may be taken.
        """
        super().__init__(message)
        self.is_final = is_final


class _NoRedirect(HTTPRedirectHandler):
    """Another address would be asked by GET, without the message, and all would seem well."""

    def redirect_request(self, *_: Any) -> None:
        """None makes an error of it."""


_OPENER = build_opener(_NoRedirect)


class Webhook:
    """One address, which stands in a variable."""

    def __init__(self, variable: str, address: str) -> None:
        """Connect to nothing yet.

        Args:
            variable: the variable's name, for messages.
            address: what it holds.

        Raises:
            ValueError: it is no address of HTTP; the message does not show it.
        """
        if not _ADDRESS.fullmatch(address):
            raise ValueError(
                f"the variable {variable} holds no address of a webhook: it begins with https://"
            )
        self.variable = variable
        self._address = address

    @classmethod
    def of_environment(cls, variable: str) -> Webhook | None:
        """The webhook of a variable; None where that is not set.

        Raises:
            ValueError: it holds no address.
        """
        address = os.environ.get(variable, "").strip()
        return cls(variable, address) if address else None

    def post(self, body: Mapping[str, Any], pause: Callable[[float], object]) -> None:
        """Send, and try again where the other side may be well again in a moment.

        Args:
            body: JSON.
            pause: waits for so many seconds.

        Raises:
            WebhookError: it was not taken.
        """
        data = json.dumps(body).encode()
        wait, status = FIRST_PAUSE_SECONDS, 0
        for left in reversed(range(TRIES)):
            try:
                return self._send(data)
            except HTTPError as error:
                with error:
                    status = error.code
                    why = f"answers {error.code} {error.reason}"
                    wait = max(wait, _asked_pause(error.headers.get("Retry-After")))
                if status not in _TRANSIENT:
                    break
            except (URLError, OSError, HTTPException) as error:
                status = 0
                reason = getattr(error, "reason", error)
                why = f"is not reached ({type(reason).__name__})"
            if left:
                pause(min(wait, LONGEST_PAUSE_SECONDS))
                wait *= 2
        is_final = status in _OF_THE_MESSAGE
        raise WebhookError(f"the webhook of {self.variable} {why}", is_final=is_final)

    def _send(self, data: bytes) -> None:
        request = Request(
            self._address, data, {"Content-Type": "application/json", "User-Agent": "tap-platform"}
        )
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
            answer.read(1024)


def _asked_pause(header: str | None) -> float:
    """Seconds that the other side asks to wait; 0 where it says none, or a date."""
    return float(header) if header and header.isdecimal() else 0.0
