"""A data set made shard by shard: killed anywhere and called again, the making goes on.

Every shard is one task, run in this process or by Ray Data, and written once and whole. A small
record beside the shards, `.parts/SPLIT-NUMBER.json`, tells what a task made of its images, so that
the next call runs only the tasks whose record is missing. `dataset.json` comes last: a folder
without it is no data set.

What was made stays as it is, though the files it was made of may change or go. What was faulty is
tried again when its file changes: the shard is made anew, unless that would lose a sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import orjson

from datamodules.importers.shard_tasks import (
    Fault,
    Make,
    Part,
    ShardTask,
    Show,
    part_path,
    read_part,
    run_tasks,
    version,
)
from datamodules.shards import provenance
from datamodules.shards.entries import write_index
from datamodules.shards.provenance import PARTS_NAME
from datamodules.storage import (
    Location,
    list_files,
    location,
    make_folder,
    read_bytes,
    remove_tree,
    write_bytes,
)
from datamodules.vocabulary import Vocabulary

SPLITS = ("train", "val")
SHOWN = 5
_READERS = 16


@dataclass(slots=True)
class ImportReport:
    """What was made, and what was left out."""

    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """Images written, by split."""
    regions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """Regions written, by split; 0 where they were not counted."""
    left_out: dict[str, int] = field(default_factory=dict)
    """What was left out without being faulty, such as `crowds`, and how many of it."""
    figures: dict[str, int] = field(default_factory=dict)
    """What else was counted, such as the `bytes` of all shards."""
    faulty_images: int = 0
    """Images left out because of a fault; `quarantine.jsonl` lists them."""
    faulty_annotations: int = 0
    """Annotations left out because of a fault; `quarantine.jsonl` lists them."""

    def sentence(self, verb: str = "imported") -> str:
        """What was made and left out, for people."""
        kept = " and ".join(
            f"{self.images[split]} {split} images"
            + (f" ({self.regions[split]} regions)" if self.regions[split] else "")
            for split in SPLITS
        )
        left_out = {
            **self.left_out,
            "faulty images": self.faulty_images,
            "faulty annotations": self.faulty_annotations,
        }
        words = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        faults = self.faulty_images + self.faulty_annotations
        listed = " (listed in quarantine.jsonl)" if faults else ""
        return f"{verb} {kept}" + (f"; left out {words}{listed}" if words else "")


@dataclass(frozen=True)
class MakingPlan:
    """A data set to be made."""

    source: str
    """What it is made from."""
    settings: dict[str, Any]
    """All that its bytes depend on."""
    tasks: Sequence[ShardTask]
    """The shards of both splits, numbered from 0 in each."""
    make: Make
    """Makes the samples of a task; it travels to other processes."""
    vocabulary: Vocabulary | None
    """The concepts, written beside the shards."""
    priors: str
    """Where the concept priors come from."""
    left_out: dict[str, int] = field(default_factory=dict)
    """What was left out before any task."""
    faults: Sequence[Fault] = ()
    """Faults known before any task."""
    figures: dict[str, int] = field(default_factory=dict)
    """What else the report tells."""


def make_data_set(
    plan: MakingPlan,
    out: str | Location,
    workers: int = 0,
    show: Show | None = None,
    mend: bool = False,
) -> ImportReport:
    """Make a data set, go on with one that was begun, or keep the one that is there.

    Args:
        plan: what to make.
        out: folder or URL of the data set.
        workers: Ray Data tasks at work at once, one CPU each, in the caller's Ray session; 0 works
            in this process. The bytes are the same.
        show: called with (images done, images in all) as it goes on.
        mend: try faulty images again whose files have changed since the data set was made.

    Returns:
        What the data set holds and what was left out of it.

    Raises:
        ValueError: if `out` holds something else or cannot be written to, or no image is left to
            train on; then nothing is left behind.
    """
    out = location(out)
    if provenance.is_made(out, plan.source, plan.settings):
        if not (mend and _mark_stale(out, plan)):
            return _stored_report(out)
    else:
        provenance.begin(out, plan.source, plan.settings)
    parts = _read_parts(out, plan.tasks)
    run_tasks(out, plan.tasks, parts, plan.make, workers, show)
    return _finish(out, plan, [part for part in _read_parts(out, plan.tasks) if part])


def _read_parts(out: Location, tasks: Iterable[ShardTask]) -> list[Part | None]:
    """The record of each task, None where it is missing."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda task: read_part(part_path(out, task)), tasks))


def _mark_stale(out: Location, plan: MakingPlan) -> bool:
    """Mark the shards whose faulty images have changed; tell whether there is one."""
    parts = _read_parts(out, plan.tasks)
    stale = [
        (task, part)
        for task, part in zip(plan.tasks, parts, strict=True)
        if part and any((now := version(path)) and now != old for path, old in part.watch.items())
    ]
    if stale:
        remove_tree(out / provenance.CARD_NAME)
    for task, part in stale:
        part.is_stale = True
        write_bytes(part_path(out, task), part.encode())
    return bool(stale)


def _finish(out: Location, plan: MakingPlan, parts: Sequence[Part]) -> ImportReport:
    """Write everything that tells of all shards, `dataset.json` last."""
    faults = [*plan.faults, *chain.from_iterable(part.faults for part in parts)]
    report = _report(plan, parts, faults)
    if not report.images["train"]:
        _remove_all(out)
        first = "".join(f"\n  image {each.image}: {each.reason}" for each in faults[:SHOWN])
        raise ValueError(f"no image is left to train on. The first faults:{first}")
    for split in SPLITS:
        entries = [part.shard for part in parts if part.split == split and part.shard]
        make_folder(out / split)
        write_index(out / split, entries)
    _remove_drafts(out)
    if plan.vocabulary is not None:
        plan.vocabulary.save(out / "vocabulary.safetensors")
    lines = [orjson.dumps(asdict(fault)) + b"\n" for fault in faults]
    write_bytes(out / "quarantine.jsonl", b"".join(lines))
    provenance.write_card(
        out, plan.source, plan.settings, plan.priors, SPLITS, report=asdict(report)
    )
    return report


def _remove_drafts(out: Location) -> None:
    """Remove what a process that was killed had begun to write."""
    for folder in (out, out / PARTS_NAME, *(out / split for split in SPLITS)):
        for draft in list_files(folder, ".*.part"):
            remove_tree(draft)


def _remove_all(out: Location) -> None:
    """Remove everything that the making has written."""
    for name in (PARTS_NAME, *SPLITS):
        remove_tree(out / name)
    if not list_files(out):
        remove_tree(out)


def _report(plan: MakingPlan, parts: Sequence[Part], faults: Sequence[Fault]) -> ImportReport:
    left_out, figures = Counter(plan.left_out), Counter(plan.figures)
    report = ImportReport()
    for part in parts:
        if part.shard:
            report.images[part.split] += len(part.shard.members)
            figures["bytes"] += part.shard.size
        report.regions[part.split] += part.regions
        left_out.update(part.left_out)
        figures.update(part.figures)
    report.left_out, report.figures = (
        dict(sorted((+left_out).items())),
        dict(sorted(figures.items())),
    )
    report.faulty_images = sum(fault.annotation is None for fault in faults)
    report.faulty_annotations = len(faults) - report.faulty_images
    return report


def _stored_report(out: Location) -> ImportReport:
    return ImportReport(**orjson.loads(read_bytes(out / provenance.CARD_NAME))["report"])
