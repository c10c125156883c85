"""How a run ends badly."""

from __future__ import annotations


class RunFailedError(Exception):
    """Training ended early; the message says why, where the log lies and how to go on."""


class RunStoppedError(RunFailedError):
    """A signal ended it, such as Ctrl-C; the message says how to go on."""
