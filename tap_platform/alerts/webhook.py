"""Sends JSON to an address that nobody else may see."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

TIMEOUT_SECONDS = 10.0
TRIES = 3
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class WebhookError(RuntimeError):
    """An alert that was not taken; the message tells no address."""


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
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
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
        wait = FIRST_PAUSE_SECONDS
        for left in reversed(range(TRIES)):
            try:
                return self._send(data)
            except HTTPError as error:
                with error:
                    why = f"answers {error.code} {error.reason}"
                    wait = max(wait, _asked_pause(error.headers.get("Retry-After")))
                if error.code not in _TRANSIENT:
                    break
            except (URLError, OSError, HTTPException) as error:
                reason = getattr(error, "reason", error)
                why = f"is not reached ({type(reason).__name__})"
            if left:
                pause(min(wait, LONGEST_PAUSE_SECONDS))
                wait *= 2
        raise WebhookError(f"the webhook of {self.variable} {why}")

    def _send(self, data: bytes) -> None:
        request = Request(
            self._address, data, {"Content-Type": "application/json", "User-Agent": "tap-platform"}
        )
        with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            answer.read(1024)


def _asked_pause(header: str | None) -> float:
    """Seconds that the other side asks to wait; 0 where it says none, or a date."""
    return float(header) if header and header.isdecimal() else 0.0
