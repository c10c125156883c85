"""Bad samples are skipped, counted and listed; too many of them stop the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from datamodules.decoding.decode import DecodedSample
from datamodules.shards.records import BadSample

SHOWN = 3
"""Bad samples that an error message lists."""


class TooManyBadSamplesError(ValueError):
    """More of the data is bad than the job allows."""


class SampleCounts(NamedTuple):
    """What became of samples that were read."""

    samples_seen: int = 0
    """All of them, good and bad."""
    samples_quarantined: int = 0
    """The bad ones."""
    regions_dropped: int = 0
    """Faulty regions of good samples, which were left out."""
    phrases_dropped: int = 0
    """Blank or endless phrases of the regions that were drawn, which were left out."""

    @classmethod
    def of(cls, results: Iterable[DecodedSample | BadSample]) -> SampleCounts:
        """Count some samples."""
        counted = list(results)
        good = [result for result in counted if isinstance(result, DecodedSample)]
        return cls(
            len(counted),
            len(counted) - len(good),
            sum(sample.dropped_regions for sample in good),
            sum(sample.dropped_phrases for sample in good),
        )


NOTHING_COUNTED = SampleCounts()


class Quarantine:
    """Counts what a worker reads. Threads may share it.

    Args:
        max_bad_fraction: share of bad samples, in [0, 1], above which `bad` raises.
        grace: bad samples tolerated before that share is looked at.
        on_bad: called with every bad sample, to record it.
        left_out: keys of samples that are bad whatever their bytes are: training has shown it. They
            are counted and listed, and have no part in that share.
    """

    def __init__(
        self,
        max_bad_fraction: float,
        grace: int,
        on_bad: Callable[[BadSample], None] | None = None,
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        self.left_out = left_out
        self._max_bad_fraction = max_bad_fraction
        self._grace = grace
        self._on_bad = on_bad
        self._lock = threading.Lock()
        self.seen = 0
        """Samples read, good and bad."""
        self.samples: list[BadSample] = []
        """The bad ones."""
        self._faulty: list[BadSample] = []
        self.dropped_regions = 0
        """Regions of good samples that had to be left out."""

    def count(self, result: DecodedSample | BadSample) -> None:
        """Count a sample, good or bad.

        Raises:
            TooManyBadSamplesError: as `bad`.
        """
        if isinstance(result, BadSample):
            self.bad(result)
        else:
            self.good(result.dropped_regions)

    def good(self, dropped_regions: int = 0) -> None:
        """Count a good sample, and its regions that had to be left out."""
        with self._lock:
            self.seen += 1
            self.dropped_regions += dropped_regions

    def bad(self, sample: BadSample) -> None:
        """Count, list and record a bad sample.

        Raises:
            TooManyBadSamplesError: if more than `grace` samples, and more than `max_bad_fraction`
                of all, are bad; those that training has left out are not among them.
        """
        faulty = sample.key not in self.left_out
        with self._lock:
            self.seen += 1
            self.samples.append(sample)
            if faulty:
                self._faulty.append(sample)
            bad = len(self._faulty)
            seen = self.seen - len(self.samples) + bad
        if self._on_bad is not None:
            self._on_bad(sample)
        if faulty and bad > self._grace and bad > self._max_bad_fraction * seen:
            raise TooManyBadSamplesError(self._message(seen, bad))

    def _message(self, seen: int, bad: int) -> str:
        listed = "".join(
            f"\n  {each.shard}: {each.key}: {each.reason}" for each in self._faulty[:SHOWN]
        )
        return (
            f"{bad} of {seen} samples are bad ({bad / seen:.1%}), more than the"
            f" {self._max_bad_fraction:.1%} that data.max_bad_fraction allows. The first:{listed}\n"
            "Mend or remove those shards, or raise data.max_bad_fraction"
        )
