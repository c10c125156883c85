"""The tasks that make shards: each writes one shard and one record of it, here or in Ray Data."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import orjson

from datamodules.shards.entries import Members, ShardEntry
from datamodules.shards.provenance import PARTS_NAME
from datamodules.shards.records import Sample
from datamodules.shards.writer import write_shard
from datamodules.storage import (
    Location,
    location,
    make_folder,
    read_bytes,
    version_of,
    write_bytes,
)

Show: TypeAlias = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(slots=True)
class Fault:
    """An image or annotation that was left out, and why."""

    file: str
    """Name of the annotation file."""
    image: Any
    """Id of the image, None if it has none."""
    annotation: Any
    """Id of the annotation, None if the whole image was left out."""
    reason: str


class Outcome(NamedTuple):
    """What one image became."""

    sample: Sample | None
    """None if it was left out."""
    left_out: Mapping[str, int] = {}
    """What was left out without being faulty, and how many of it."""
    faults: Sequence[Fault] = ()
    """What was left out because it is faulty."""
    watch: Mapping[str, str | None] = {}
    """Path and `version_of` each file that is worth another try when it changes; None: missing."""
    figures: Mapping[str, int] = {}
    """What else was counted."""


Make: TypeAlias = Callable[[Any], Iterable[Outcome]]
"""Makes the outcomes of the images of a task, in order, from the task's `work`."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to be made."""

    split: str
    number: int
    """Number of the shard in its split."""
    images: int
    """Outcomes that there will be."""
    work: Any
    """What the samples are made from; it travels to other processes."""


@dataclass(slots=True)
class Part:
    """The record of a task that is done."""

    split: str
    regions: int = 0
    """Regions written."""
    shard: ShardEntry | None = None
    """The shard; None if no image of it could be used."""
    left_out: Counter[str] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    watch: dict[str, str | None] = field(default_factory=dict)
    is_stale: bool = False
    """Whether the shard is to be made again."""

    def samples(
        self, outcomes: Iterable[Outcome], advance: Callable[[int], None]
    ) -> Iterator[Sample]:
        """The samples of some outcomes, whose other parts are noted; `advance` counts images."""
        for outcome in outcomes:
            self.left_out.update(outcome.left_out)
            self.figures.update(outcome.figures)
            self.faults.extend(outcome.faults)
            self.watch.update(outcome.watch)
            if outcome.sample is not None:
                self.regions += len(outcome.sample.regions)
                yield outcome.sample
            advance(1)

    def keys(self) -> set[str]:
        """Keys of the samples in the shard."""
        return {members.key for members in self.shard.members} if self.shard else set()

    def encode(self) -> bytes:
        """The record as JSON."""
        return orjson.dumps(self, default=tuple)


def part_path(out: Location, task: ShardTask) -> Location:
    """Where the record of a task lies in the folder of the data set."""
    return out / PARTS_NAME / f"{task.split}-{task.number:06d}.json"


def read_part(path: Location) -> Part | None:
    """The record of a task; None if it is not done."""
    try:
        values = orjson.loads(read_bytes(path))
    except FileNotFoundError:
        return None
    if values["shard"] is not None:
        name, size, digest, rows = values["shard"]
        members = [Members(key, *map(tuple, places)) for key, *places in rows]
        values["shard"] = ShardEntry(name, size, digest, members)
    values |= {name: Counter(values[name]) for name in ("left_out", "figures")}
    values["faults"] = [Fault(**fault) for fault in values["faults"]]
    return Part(**values)


def version(path: str) -> str | None:
    """What changes when a file does; None if the file is not there."""
    try:
        return version_of(location(path))
    except (OSError, ValueError):
        return None


def run_tasks(
    out: Location,
    tasks: Sequence[ShardTask],
    parts: Sequence[Part | None],
    make: Make,
    workers: int,
    show: Show | None,
) -> None:
    """Run the tasks that are not done.

    Args:
        out: folder of the data set; a task writes to the folder of its split.
        tasks: all tasks.
        parts: the record of each, None where it is missing.
        make: makes the samples.
        workers: Ray Data tasks at work at once, in the caller's Ray session; 0 works in this
            process.
        show: called with (images done, images in all) as it goes on.

    Raises:
        ValueError: if a shard cannot be made or written.
    """
    missing = [
        (task, part) for task, part in zip(tasks, parts, strict=True) if not part or part.is_stale
    ]
    total = sum(task.images for task in tasks)
    done = total - sum(task.images for task, _ in missing)

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if show is not None:
            show(done, total)

    for split in {task.split for task, _ in missing}:
        make_folder(out / split)
    if workers:
        for images in _run_with_ray(missing, partial(_run_task, out, make), workers):
            advance(images)
        return
    for task, part in missing:
        _run_task(out, make, task, part, advance)


def _run_task(
    out: Location,
    make: Make,
    task: ShardTask,
    old: Part | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the shard of a task, and then its record.

    What is made again instead of an old shard must hold all its samples, else the old one stays.
    """
    part = Part(task.split)
    samples = _with_all(part.samples(make(task.work), advance), old.keys() if old else set())
    try:
        first = next(samples, None)
        if first is not None:
            name = f"shard-{task.number:06d}.tar"
            part.shard = write_shard(out / task.split, name, chain([first], samples))
    except _LosesSamplesError:
        assert old is not None
        watch = {path: version(path) for path in old.watch} | part.watch
        part = replace(old, is_stale=False, watch=watch)
    write_bytes(part_path(out, task), part.encode())


class _LosesSamplesError(Exception):
    """A shard made again would lack what it held before."""


def _with_all(samples: Iterable[Sample], keys: set[str]) -> Iterator[Sample]:
    """The samples; an error at their end if keys are missing, before anything is written."""
    missing = set(keys)
    for sample in samples:
        missing.discard(sample.key)
        yield sample
    if missing:
        raise _LosesSamplesError


def _run_with_ray(
    missing: Sequence[tuple[ShardTask, Part | None]], run: Callable[..., None], workers: int
) -> Iterator[int]:
    """Run tasks by Ray Data, one a row; yields the images of each that is done, in no order."""
    import ray.data

    if not missing:
        return
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items(
            [{"task": pickle.dumps(pair)} for pair in missing], override_num_blocks=len(missing)
        ).map(partial(_run_row, run), compute=ray.data.TaskPoolStrategy(workers), num_cpus=1)
    for row in rows.iter_rows():
        if row["fault"]:
            raise ValueError(row["fault"])
        yield row["images"]


def _run_row(run: Callable[..., None], row: dict[str, Any]) -> dict[str, Any]:
    """Run one task; a mistake is told in the result, for what Ray raises has lost its words."""
    task, old = pickle.loads(row["task"])
    try:
        run(task, old)
    except (ValueError, OSError) as error:
        return {"images": 0, "fault": str(error)}
    return {"images": task.images, "fault": ""}
