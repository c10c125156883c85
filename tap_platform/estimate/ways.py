"""What would make a job fit: its own estimate again, with other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tap_platform.config.job import JobConfig
from tap_platform.config.load import merge, parse_override
from tap_platform.estimate.figures import Memory, Way

MOST = 6
MICRO = "training.micro_batch"


class _Change(NamedTuple):
    overrides: tuple[str, ...]
    costs: str


RECOMPUTE = _Change(
    ("model.activation_checkpointing=true",), "the encoder's forward pass is computed twice"
)
_STRATEGIES = {
    "zero_1": "weights are gathered after each step",
    "zero_2": "weights are gathered after each step",
    "fsdp": "weights are gathered in both passes",
    "zero_3": "weights are gathered in both passes",
}


def ways_that_fit(job: JobConfig, measure: Callable[[JobConfig], Memory]) -> list[Way]:
    """Settings that fit, the least changes first; none of them holds another that fits.

    Args:
        job: a job that does not fit.
        measure: its memory under other settings.
    """
    found: list[Way] = []
    for change in _changes(job):
        if any(_holds(change.overrides, way.overrides) for way in found):
            continue
        changed = _changed(job, change.overrides)
        if changed is None:
            continue
        memory = measure(changed)
        if memory.fits:
            way = Way(overrides=list(change.overrides), total=memory.total, costs=change.costs)
            found.append(way)
        if len(found) == MOST:
            break
    return found


def _changes(job: JobConfig) -> Iterator[_Change]:
    """Single changes, then pairs, then all of them with the state in host memory."""
    recompute = [] if job.model.activation_checkpointing else [RECOMPUTE]
    batches = [_smaller_batch(job, size) for size in _smaller(job.micro_batch)]
    shared = [
        _Change((f"scale.strategy={name}",), costs)
        for name, costs in _STRATEGIES.items()
        if job.scale.most_workers > 1 and name != job.scale.strategy
    ]
    yield from (*recompute, *shared, *batches)
    for first in recompute:
        yield from (_both(first, other) for other in (*shared, *batches))
    last = batches[-1:]
    yield from (_both(batch, other) for batch in last for other in shared)
    smallest = [_both(first, batch) for first in recompute for batch in last] or [*last, *recompute]
    for base in (*smallest, _Change((), "")):
        yield from (_both(base, other) for other in (*shared, *_offloads()))


def _offloads() -> Iterator[_Change]:
    yield _Change(
        ("scale.strategy=zero_2", "scale.offload=optimizer"), "the optimizer steps on CPUs"
    )
    yield _Change(
        ("scale.strategy=fsdp", "scale.offload=parameters"),
        "weights come from host memory, the optimizer steps on CPUs",
    )


def _smaller(images: int) -> list[int]:
    """A half, a quarter, an eighth, one: every size is another walk through the step."""
    return sorted({images // 2, images // 4, images // 8, 1} - {0, images}, reverse=True)


def _holds(change: Sequence[str], way: Sequence[str]) -> bool:
    """Whether a change does all that a way does; smaller micro-batches do what larger ones do."""
    asked, done = _settings(change), _settings(way)
    return all(
        key in asked and (asked[key] == value or (key == MICRO and asked[key] <= value))
        for key, value in done.items()
    )


def _settings(overrides: Sequence[str]) -> dict[str, Any]:
    pairs = (each.split("=", 1) for each in overrides)
    return {key: int(value) if key == MICRO else value for key, value in pairs}


def _smaller_batch(job: JobConfig, images: int) -> _Change:
    more = -(-job.worker_images // images)
    return _Change((f"{MICRO}={images}",), f"{more} micro-batches a step, one after the other")


def _both(first: _Change, second: _Change) -> _Change:
    costs = "; ".join(each for each in (first.costs, second.costs) if each)
    return _Change((*first.overrides, *second.overrides), costs)


def _changed(job: JobConfig, overrides: tuple[str, ...]) -> JobConfig | None:
    """The job with other settings; None if these do not go together."""
    tree = job.model_dump()
    for override in overrides:
        tree = merge(tree, parse_override(override))
    try:
        return JobConfig.model_validate(tree)
    except ValueError:
        return None
