"""Who pays for a run, and what its machines cost: what a driver is told by its environment."""

from __future__ import annotations

import getpass
import math
import os
import socket
from typing import Any

PRICE = "TAP_PRICE_PER_HOUR"
"""Variable with what all machines of the run cost in an hour; unset, no cost is told. A trial that
shares them with others is given its share."""
CURRENCY = "TAP_CURRENCY"
"""Variable with the currency of that price, such as `EUR`."""
OWNER = "TAP_OWNER"
"""Variable with who submitted the run, `user@host`; unset, whoever runs the driver has."""


def price_per_hour() -> float | None:
    """What the run's machines cost in an hour; None where nobody has said, or it is no price."""
    try:
        price = float(os.environ.get(PRICE) or 0)
    except ValueError:
        return None
    return price if math.isfinite(price) and price > 0 else None


def tell_price(per_hour: float, currency: str) -> None:
    """Let runs that this process drives cost so much; 0 lets them cost nothing that is known."""
    os.environ[PRICE], os.environ[CURRENCY] = str(per_hour), currency


def currency() -> str:
    """Of that price."""
    return os.environ.get(CURRENCY) or "USD"


def owner() -> str:
    """Who answers for the run, `user@host`."""
    if told := os.environ.get(OWNER):
        return told
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def price_told() -> dict[str, Any]:
    """What the event `started` tells of money: the price may change from attempt to attempt."""
    price = price_per_hour()
    return {} if price is None else {"price_per_hour": price, "currency": currency()}
