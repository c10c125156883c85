"""Training that leads nowhere, and the samples that it is not tried with again."""

from __future__ import annotations

from pathlib import Path

from tap_platform.runs.events import read_events

RETURNED = "returned"
"""Kind of the event that lists the samples of the steps that a run has gone back behind."""


class DivergedError(Exception):
    """So many steps in a row had no finite loss or gradient that going on is of no use.

    Every worker raises it at the same step.
    """

    def __init__(self, step: int, samples: list[str]) -> None:
        """Tell where.

        Args:
            step: the last one that was skipped.
            samples: keys of the images of all steps in that row, over all workers.
        """
        super().__init__(f"no step up to step {step} had a finite loss and gradient")
        self.step = step
        self.samples = samples


def left_out(events: Path) -> frozenset[str]:
    """Keys of the samples that a run trains no more on, by its `events.jsonl`."""
    return frozenset(key for event in read_events(events, RETURNED) for key in event["samples"])
