"""Times, counts and places as the pages tell them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from tap_platform.bill.words import ABSENT, PARTS

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.-]")
_OF_ANOTHER_STORAGE = re.compile(r"\d+-")
_SEAMS = re.compile(r"(?=--)")
_HALF_A_YEAR = 183 * 24.0
"""Hours after which a day is told with its year."""


def span(hours: float | None) -> str:
    """A length of time in its two largest units: `2 h 05 min`; `-` where it is not known."""
    if hours is None or not math.isfinite(hours):
        return ABSENT
    seconds = round(hours * 3600)
    minutes, hours_whole, days = seconds // 60, seconds // 3600, seconds // 86_400
    if seconds < 60:
        return f"{seconds} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours_whole < 48:
        return f"{hours_whole} h {minutes % 60:02} min"
    return f"{days} d {hours_whole % 24} h"


def moment(iso: str | None) -> str:
    """A time to the minute, UTC: `2026-11-22 09:46`; `-` for what is none."""
    try:
        return f"{datetime.fromisoformat(iso or '').astimezone(UTC):%Y-%m-%d %H:%M}"
    except ValueError:
        return ABSENT


def ending(hours: float, now: float) -> str:
    """When so many hours from now are over, UTC: `11-22 14:30`; empty where no calendar tells."""
    try:
        at = datetime.fromtimestamp(now + 3600 * hours, UTC)
    except (ValueError, OverflowError, OSError):  # after the year 9999
        return ""
    return f"{at:%m-%d %H:%M}" if hours < _HALF_A_YEAR else f"{at:%Y-%m-%d}"


def seconds_of(iso: str) -> float:
    """A time in ISO 8601 as seconds since 1970."""
    return datetime.fromisoformat(iso).timestamp()


def price(cost: Mapping[str, float]) -> str:
    """Sums by currency, without hundredths where they do not matter: `1,234 USD + 3.00 EUR`."""
    told = [
        f"{value:,.{0 if value >= 1000 else 2}f} {currency}"
        for currency, value in sorted(cost.items())
    ]
    return " + ".join(told) or ABSENT


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def number(value: object) -> str:
    """A value of a job or a measure in as many digits as matter."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def slug(storage: int, project: str, name: str) -> str:
    """The name of a page's file, told by nobody else's.

    Args:
        storage: its number among those that are shown, from 0.
        project: may hold anything that a folder's name holds.
        name: the same.
    """
    told = f"{project}--{name}"
    plain = _NOT_PLAIN.sub("_", told)
    may_be_anothers = len(_SEAMS.findall(told)) > 1 or _OF_ANOTHER_STORAGE.match(told)
    if plain != told or len(plain) > 120 or plain.startswith((".", "_")) or may_be_anothers:
        digest = hashlib.sha256(f"{project}/{name}".encode()).hexdigest()[:10]
        plain = f"_{plain[:100]}-{digest}"
    return f"{storage + 1}-{plain}" if storage else plain


def widths(shares: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """The parts of a bar of goodput that are there: name, width in %, and what it tells."""
    return [
        (part, f"{100 * shares[part]:.2f}", f"{title}: {100 * shares[part]:.1f} %")
        for part, title in PARTS.items()
        if shares.get(part)
    ]
