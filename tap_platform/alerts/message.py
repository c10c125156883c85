"""An alert, and how a chat shows it."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from tap_platform.config.alerts import AlertKind

TITLES: dict[AlertKind, str] = {
    "failure": "Failed",
    "recovery": "Goes on",
    "stall": "Stalled",
    "divergence": "Diverged",
    "budget": "Budget",
    "sweep_done": "Sweep done",
}
SIGNS: dict[AlertKind, str] = {
    "failure": ":red_circle:",
    "recovery": ":large_green_circle:",
    "stall": ":hourglass:",
    "divergence": ":chart_with_upwards_trend:",
    "budget": ":moneybag:",
    "sweep_done": ":checkered_flag:",
}
LONGEST_TEXT = 1500
"""Characters of what an alert tells, as they are sent; chats refuse very long messages."""


_CUT_IN_TWO = re.compile(r"&[a-z]*$")
"""A sign that is written as several."""


class Alert(BaseModel):
    """One thing that somebody should know."""

    model_config = ConfigDict(frozen=True)

    kind: AlertKind
    run: str
    """The run, or the sweep."""
    project: str
    text: str
    """What happened, in a sentence or two."""
    time: str
    """When, UTC in ISO 8601."""
    where: str = ""
    """The run directory."""


def payload(alert: Alert) -> dict[str, Any]:
    """The alert as Slack's incoming webhooks take it, and those that are like them."""
    text = _CUT_IN_TWO.sub("", _escaped(alert.text)[:LONGEST_TEXT])
    head = f"{SIGNS[alert.kind]} *{TITLES[alert.kind]}: {_escaped(alert.run)}*"
    foot = f"{_escaped(alert.project)} · {alert.time[:16].replace('T', ' ')} UTC"
    if alert.where:
        foot = f"{foot} · `{_escaped(alert.where)}`"
    return {
        "text": f"{TITLES[alert.kind]}: {_escaped(alert.run)}: {text}",
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"{head}\n{text}"}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": foot}]},
        ],
    }


def _escaped(text: str) -> str:
    """Without these, a text could ping everybody or show another address than it opens."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
