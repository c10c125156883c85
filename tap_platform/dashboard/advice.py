"""What to do about a failure, by what its cause says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from tap_platform.dashboard.collect import Collected, ListedRun
from tap_platform.dashboard.lines import state_of


class Remedy(NamedTuple):
    """A kind of failure, and what helps."""

    kind: str
    pattern: str
    """What the cause says, a regular expression."""
    what: str
    resumes: bool = True
    """Whether going on from the last checkpoint is of use."""


REMEDIES = (
    Remedy(
        "out of memory",
        r"out of memory|outofmemory|OOM|cannot allocate memory",
        "Lower training.micro_batch, or take a ZeRO strategy; `tap plan` estimates the memory.",
    ),
    Remedy(
        "disk full",
        r"no space left|disk quota|disk is full",
        "Free the storage, or keep fewer checkpoints by checkpoint.keep_last; then resume.",
    ),
    Remedy(
        "diverged",
        r"diverged|no finite loss|not finite",
        "Look at the samples in its events; if they are right, lower optimizer.lr and start anew.",
        resumes=False,
    ),
    Remedy(
        "bad data",
        r"max_bad_fraction|quarantin|bad samples|truncated|no such data",
        "Check the data set with `tap data verify`; data.max_bad_fraction is what is allowed.",
    ),
    Remedy(
        "hung",
        r"\bhung\b|stall|time[d ]? ?out|watchdog",
        "See in the logs what the worker waited for; if one node is slow each time, leave it out.",
    ),
    Remedy(
        "machine or worker lost",
        r"is gone|node .*(lost|died)|preempt|lost the controller|killed|health.?check"
        r"|SIG(KILL|TERM|SEGV|ABRT|BUS)",
        "Resume: it goes on from its checkpoint. More scale.max_failures lets it do so by itself.",
    ),
    Remedy(
        "no storage",
        r"does not see the run directory|permission denied|read-only|not writable",
        "Let `storage` be a folder that all nodes share and may write to.",
    ),
    Remedy(
        "no sign of life",
        r"no sign of life",
        "See whether its machines are there; `tap logs` tells its last words. Then resume.",
    ),
)
_CUT = ("failed", "lost", "interrupted")
OTHER = Remedy("other", "", "Its whole message and its logs tell more; mend that, then resume.")


class Failure(NamedTuple):
    """One run that did not come to its end."""

    run: ListedRun
    state: str
    cause: str
    message: str
    """Whole."""
    remedy: Remedy
    resume: str
    """The command that goes on from its last checkpoint; empty where there is nothing to go on
    with, or it lies elsewhere."""


def remedy_of(text: str) -> Remedy:
    """What helps against a failure that tells so of itself."""
    for remedy in REMEDIES:
        if re.search(remedy.pattern, text, re.IGNORECASE):
            return remedy
    return OTHER


def failures_of(collected: Collected) -> list[Failure]:
    """Runs that failed, are lost or were interrupted; the newest first.

    Trials that a sweep has stopped early are none of them, nor are runs that consist of others.
    """
    found = []
    for run in collected.runs:
        state, cause = state_of(run, collected)
        if state in _CUT and not run.account.holds_runs:
            found.append(_failure(run, state, cause, collected))
    return sorted(found, key=lambda failure: failure.run.account.updated, reverse=True)


def by_kind(failures: Sequence[Failure]) -> list[tuple[Remedy, list[Failure]]]:
    """Failures of each kind, the commonest first; interrupted ones are left out."""
    kinds: dict[Remedy, list[Failure]] = {}
    for each in failures:
        if each.state != "interrupted":
            kinds.setdefault(each.remedy, []).append(each)
    return sorted(kinds.items(), key=lambda kind: -len(kind[1]))


def _failure(run: ListedRun, state: str, cause: str, collected: Collected) -> Failure:
    message = run.account.message
    told = [remedy_of(cause), remedy_of(message) if state != "lost" else OTHER]
    remedy = next((each for each in told if each is not OTHER), OTHER)
    resume = _resume(run, collected) if remedy.resumes else ""
    return Failure(run, state, cause, message, remedy, resume)


def _resume(run: ListedRun, collected: Collected) -> str:
    account = run.account
    if "://" in run.storage:
        return ""
    if account.sweep is not None:
        sweep = collected.trial_of.get(run.slug)
        if sweep is None or sweep[0].account.state not in _CUT:
            return ""
        return f"tap sweep --resume {shlex.quote(sweep[0].account.path)}"
    if account.parent is not None:
        return f"tap run --resume {shlex.quote(account.parent)}"
    return f"tap train --resume {shlex.quote(account.path)}"
