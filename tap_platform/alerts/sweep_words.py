"""What came out of a sweep, in a sentence, from its directory alone."""

from __future__ import annotations

from pathlib import Path

from tap_platform.runs.sweep_account import sweep_account


def outcome(sweep: Path) -> str:
    """How its trials ended, and the best of them; empty where its files do not tell."""
    account = sweep_account(sweep)
    if not account.metric:
        return ""
    told = f"{len(account.trials):,} trials{f': {account.counts}' if account.counts else ''}."
    return f"{told} Best: {account.best_in_words}." if account.best else told
