"""What stands at the head of a tracked run, in Markdown: what it is, whose, and in which units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tap_platform.runs.tracking.base import as_text
from tap_platform.runs.tracking.settings import Setting

_SHOWN = (
    "optimizer.lr",
    "training.max_steps",
    "training.global_batch",
    "training.precision",
    "scale.workers",
    "scale.strategy",
    "model.image_size",
)
"""Settings that people ask for first."""
_LABELS = {"owner": "owner", "team": "team", "cost_centre": "cost centre", "sweep": "sweep"}


def description_of(settings: Sequence[Setting], labels: Mapping[str, str]) -> str:
    """A few lines about a run.

    Args:
        settings: Of its job.
        labels: All of its labels.
    """
    known = {each.key: each for each in settings}
    whose = [f"{word} **{labels[key]}**" for key, word in _LABELS.items() if labels.get(key)]
    what = [_told(known[key]) for key in _SHOWN if key in known]
    lines = [*([", ".join(whose)] if whose else []), *(f"- {line}" for line in what)]
    lines.append("\nAll settings, their units and meanings: `settings.md` among the files.")
    return "\n".join(lines)


def _told(setting: Setting) -> str:
    return f"{setting.key}: {as_text(setting.value)} {setting.unit}".rstrip()
