"""From what people say of a time, such as `30d`, to a moment."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([hdw])")


def moment_of(text: str, now: float) -> float:
    """A moment in the past, seconds since 1970.

    Args:
        text: `12h`, `30d` or `4w` before now; or a date, `2026-11-01`, at midnight UTC.
        now: the present, seconds since 1970.

    Raises:
        ValueError: it is neither, or lies in the future.
    """
    if found := _SPAN.fullmatch(text.strip()):
        return now - float(found[1]) * _SECONDS[found[2]]
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: write 12h, 30d or 4w, or a date such as 2026-11-01"
        ) from None
    moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    if moment > now:
        raise ValueError(f"{text} lies in the future: a bill is of what has been")
    return moment
