"""What can be wrong with a data set, and the tally of what is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

EXAMPLES = 20
"""Findings of one kind that a tally keeps in full; the others are only counted."""


class Kind(StrEnum):
    """A kind of finding, in the order of a report."""

    UNREADABLE = "unreadable"
    ANNOTATION = "annotation"
    IMAGE = "image"
    SIZE = "size"
    MASK = "mask"
    PRIORS = "priors"
    SIDECAR = "sidecar"
    CHECKSUM = "checksum"
    INDEX = "index"
    KEY_ORDER = "key order"
    MEMBER_ORDER = "member order"
    DUPLICATE_KEY = "duplicate key"
    SCHEMA = "schema"
    PHRASE = "phrase"
    EMPTY_REGION = "empty region"
    AREA = "area"
    BOX = "box"
    CATEGORY = "category"
    PRIOR_TYPE = "prior type"
    PRIOR_NORM = "prior norm"
    PROVENANCE = "provenance"

    @property
    def is_bad(self) -> bool:
        """Whether training skips what has it, or does not start; if not, it is only suspicious."""
        return self in _BAD

    @property
    def meaning(self) -> str:
        """What it says, in a few words."""
        return _MEANINGS[self]


_BAD = frozenset(
    {
        Kind.UNREADABLE,
        Kind.ANNOTATION,
        Kind.IMAGE,
        Kind.SIZE,
        Kind.MASK,
        Kind.PRIORS,
        Kind.SIDECAR,
    }
)
_MEANINGS = {
    Kind.UNREADABLE: "a shard or a member is missing or cut",
    Kind.ANNOTATION: "KEY.json cannot be understood",
    Kind.IMAGE: "the image cannot be decoded",
    Kind.SIZE: "image and annotation differ in size",
    Kind.MASK: "a mask's encoding is broken",
    Kind.PRIORS: "priors broken, misaligned or not finite",
    Kind.SIDECAR: "the sidecar's priors are of other samples",
    Kind.CHECKSUM: "a shard is not the one that was indexed",
    Kind.INDEX: "index and tar differ",
    Kind.KEY_ORDER: "samples in another order than the index's",
    Kind.MEMBER_ORDER: "members apart, or not image, json, priors",
    Kind.DUPLICATE_KEY: "a key that is there twice",
    Kind.SCHEMA: "KEY.json breaks the schema, but is read",
    Kind.PHRASE: "a blank or too long phrase: it is left out",
    Kind.EMPTY_REGION: "an empty mask or box: the region is dropped",
    Kind.AREA: "the area is not the mask's",
    Kind.BOX: "the box is not the mask's",
    Kind.CATEGORY: "a category that the vocabulary lacks",
    Kind.PRIOR_TYPE: "priors that are not float16",
    Kind.PRIOR_NORM: "priors that are not about of unit length",
    Kind.PROVENANCE: "dataset.json or index.json is of other files",
}


class Finding(NamedTuple):
    """One thing that is wrong."""

    kind: Kind
    part: str
    """`train`, `val`, or the name of the folder."""
    shard: str | None
    key: str | None
    region: int | None
    """Its place among the annotations."""
    detail: str


class BadRecord(NamedTuple):
    """A sample that training skips."""

    part: str
    shard: str
    key: str
    reason: str


@dataclass
class Tally:
    """Findings counted by kind, with examples, and every bad sample."""

    samples: int = 0
    """Samples looked at."""
    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[Finding]] = field(default_factory=dict)
    bad: list[BadRecord] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """Shards with a bad sample, or whose bytes are not those that were indexed: path or URL."""

    def add(self, findings: Iterable[Finding]) -> None:
        """Count some findings."""
        for finding in findings:
            self.counts[finding.kind] += 1
            examples = self.examples.setdefault(finding.kind, [])
            if len(examples) < EXAMPLES:
                examples.append(finding)

    def merge(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.samples += other.samples
        self.counts.update(other.counts)
        for kind, findings in other.examples.items():
            mine = self.examples.setdefault(kind, [])
            mine.extend(findings[: EXAMPLES - len(mine)])
        self.bad.extend(other.bad)
        self.damaged.extend(other.damaged)

    @property
    def findings(self) -> int:
        """How many there are in all."""
        return self.counts.total()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is bad and every shard is the one that was indexed."""
        return not self.damaged and not any(kind.is_bad for kind in self.counts)

    def kinds(self) -> list[Kind]:
        """The kinds that there are, the bad ones first."""
        return [kind for kind in Kind if self.counts[kind]]

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "samples": self.samples,
            "findings": self.findings,
            "bad_samples": len(self.bad),
            "damaged_shards": self.damaged,
            "kinds": {
                kind.value: {
                    "class": "bad" if kind.is_bad else "suspicious",
                    "meaning": kind.meaning,
                    "count": self.counts[kind],
                    "examples": [each._asdict() for each in self.examples[kind]],
                }
                for kind in self.kinds()
            },
        }
