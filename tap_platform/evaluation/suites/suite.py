"""What an evaluation suite is: requests that travel to workers, answers that come back, a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tap_platform.evaluation.suites.ground_truth import ImageId

if TYPE_CHECKING:
    from tap_platform.evaluation.suites.view import ImageView

SuiteName = Literal["instances", "classification", "prompts", "captions"]
SUITE_NAMES: tuple[SuiteName, ...] = ("instances", "classification", "prompts", "captions")

Asker = Callable[["ImageView", Any], Any]
"""Asks a model about one image: (the image, the suite's request) to an answer. It travels to
workers, as requests and answers do, so all three are small and can be pickled."""


@dataclass(frozen=True)
class Case:
    """One region, and what the model said about it, to be shown to people."""

    image_id: ImageId
    box: tuple[float, float, float, float] | None
    """The prompt, xyxy in pixels of the image, if it is a box."""
    point: tuple[float, float] | None
    """The prompt, (x, y) in pixels of the image, if it is a point."""
    goodness: float
    """What cases are ranked by: the higher, the better the answer."""
    measure: str
    """How good it is, for people: `IoU 0.83`."""
    wanted: str
    """The right answer in words."""
    given: str
    """The model's answer in words."""
    correct: bool | None = None
    """Whether the words agree; None where that is not asked."""
    true_mask: dict[str, Any] | None = None
    """COCO run-length encoding of the image's size."""
    given_mask: dict[str, Any] | None = None
    """The same, of the model's mask."""


@dataclass(frozen=True)
class SuiteResult:
    """What a suite measured."""

    suite: SuiteName
    protocol: str
    """What was measured in a few words; a paper's row is comparable if its protocol is the same."""
    metrics: dict[str, float | None]
    """By name, in the order to be shown; from 0 to 1 but for CIDEr. None: nothing to measure."""
    counts: dict[str, int]
    """How many images, regions and so on were measured."""
    cases: list[Case]
    """All regions that can be shown."""
    predictions: list[dict[str, Any]]
    """The answers in COCO's result format."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else the numbers depend on."""
    named: Sequence[tuple[str, str]] = ()
    """Of each region that was named: its true name, and the likeliest one."""


class Suite(Protocol):
    """One of the papers' evaluations, on one ground truth."""

    @property
    def name(self) -> SuiteName:
        """What it is called on the command line."""

    def requests(self) -> Mapping[ImageId, Any]:
        """What to ask about each image; images that are not there are not asked about."""

    def asker(self) -> Asker:
        """Who asks, on a worker."""

    def score(self, answers: Mapping[ImageId, Any]) -> SuiteResult:
        """Compare the answers to all requests with the ground truth."""
