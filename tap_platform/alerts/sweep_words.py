"""What came out of a sweep, in a sentence, from its directory alone."""

from __future__ import annotations

from pathlib import Path

from tap_platform.runs.sweep_account import sweep_account


def outcome(sweep: Path) -> str:
    """How its trials ended, and the best of them; empty where its files do not tell."""
    account = sweep_account(sweep)
    if account.faults or not account.metric:
        return ""
    told = f": {account.counts}" if account.counts else ""
    best = f" Best: {account.best_in_words}." if account.best_in_words else ""
    return f"{len(account.trials)} trials{told}.{best}"
