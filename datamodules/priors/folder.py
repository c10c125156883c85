"""A folder of priors: sidecar shards that appear whole, and what tells which data set they fit.

    ROOT/train/shard-000000.tar …, ROOT/train/index.json, ROOT/val/…, ROOT/vocabulary.safetensors,
    ROOT/dataset.json, ROOT/quarantine.jsonl

A shard is done when its record, `ROOT/.parts/SPLIT-NUMBER.json`, is there: it is written after the
tar. `dataset.json` comes last; a folder without it is not complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import orjson

from datamodules.priors.shard import ShardPriors
from datamodules.shards import provenance
from datamodules.shards.entries import Members, ShardEntry
from datamodules.shards.index import DataIndex
from datamodules.shards.records import BadSample
from datamodules.shards.sidecar import write_sidecar, write_sidecar_index
from datamodules.storage import (
    Location,
    exists,
    list_files,
    make_folder,
    read_bytes,
    remove_tree,
    write_bytes,
)
from datamodules.vocabulary import Vocabulary

SOURCE = "priors"
VOCABULARY = "vocabulary.safetensors"
_PARTS, _CLAIM = ".parts", "begun.json"
_READERS = 16


@dataclass(slots=True)
class PriorsReport:
    """What a folder of priors holds."""

    images: int = 0
    """Samples, good and bad."""
    regions: int = 0
    """Regions of good samples."""
    without: int = 0
    """Of them, regions that there is nothing to show of: their rows are zero."""
    bad: int = 0
    """Samples that could not be read, listed in `quarantine.jsonl`; they have no priors."""

    def sentence(self) -> str:
        """The same for people."""
        words = f"{self.regions:,} regions of {self.images:,} images"
        if self.without:
            words += f"; {self.without:,} with nothing to show have zero rows"
        if self.bad:
            words += f"; {self.bad:,} bad samples are listed in quarantine.jsonl"
        return words


@dataclass(slots=True)
class _Part:
    """The record of a shard that is done."""

    shard: ShardEntry
    regions: int
    without: int
    bad: list[BadSample]

    def encode(self) -> bytes:
        """The record as JSON."""
        members = [(each.key, each.priors) for each in self.shard.members]
        return orjson.dumps({**asdict(self), "shard": [*self.shard[:3], members]})

    @classmethod
    def decode(cls, data: bytes) -> _Part:
        """Read what `encode` made."""
        values = orjson.loads(data)
        name, size, digest, members = values["shard"]
        places = [Members(key, priors=tuple(priors)) for key, priors in members]
        bad = [BadSample(**each) for each in values["bad"]]
        shard = ShardEntry(name, size, digest, places)
        return cls(shard, values["regions"], values["without"], bad)


def check_names(index: DataIndex) -> None:
    """Refuse shards of equal names in different folders: their sidecars would be one file.

    Raises:
        ValueError: if there are such.
    """
    count = Counter(PurePosixPath(name).name for name in index.names)
    twice = [name for name, times in count.items() if times > 1]
    if twice:
        raise ValueError(
            f"{index.folder} has several shards that are called {twice[0]}: give them names of"
            " their own, and index them again"
        )


def is_complete(root: Location, settings: Mapping[str, Any]) -> bool:
    """Whether a folder holds all priors of these settings; if not, they may be made there.

    Args:
        root: folder or URL.
        settings: all that the bytes depend on.

    Raises:
        ValueError: if it holds something else; the message names the differences.
    """
    if provenance.is_made(root, SOURCE, dict(settings)):
        return True
    claimed = root / _PARTS / _CLAIM
    if exists(claimed):
        provenance.check_same(root, claimed, SOURCE, dict(settings))
    elif list_files(root):
        raise ValueError(f"{root} is not empty: choose a new folder")
    return False


def claim(root: Location, settings: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    """Begin a folder: note its settings, and keep the concepts of the same teacher.

    Raises:
        OSError: if it cannot be written to.
    """
    make_folder(root / _PARTS)
    record = {"source": SOURCE, "settings": settings}
    write_bytes(root / _PARTS / _CLAIM, orjson.dumps(record, option=orjson.OPT_INDENT_2))
    vocabulary.save(root / VOCABULARY)


def missing_shards(root: Location, split: str, shards: int) -> list[int]:
    """Numbers of the shards of a split that are not done."""
    with ThreadPoolExecutor(_READERS) as pool:
        there = pool.map(lambda shard: exists(_part_path(root, split, shard)), range(shards))
        return [shard for shard, done in enumerate(there) if not done]


def keep(root: Location, split: str, index: DataIndex, shard: int, done: ShardPriors) -> None:
    """Write the sidecar of a shard, then its record.

    Raises:
        OSError: if it cannot be written.
    """
    folder = root / split
    make_folder(folder)
    name = PurePosixPath(index.names[shard]).name
    entry = write_sidecar(folder, name, done.keys, done.priors)
    part = _Part(entry, done.regions, done.without, done.bad)
    write_bytes(_part_path(root, split, shard), part.encode())


def finish(
    root: Location,
    indexes: Mapping[str, DataIndex],
    settings: Mapping[str, Any],
    teacher: str,
    **facts: Any,
) -> PriorsReport:
    """Write what tells of all shards, `dataset.json` last.

    Args:
        root: folder or URL, whose shards are done.
        indexes: the data set's index of each split.
        settings: all that the bytes depend on.
        teacher: who made the priors.
        facts: what else is worth telling.
    """
    report, lines = PriorsReport(), []
    for split, index in indexes.items():
        for draft in list_files(root / split, ".*.part"):  # of a writer that was killed
            remove_tree(draft)
        with ThreadPoolExecutor(_READERS) as pool:
            shards = range(len(index.names))
            parts = list(pool.map(lambda shard, s=split: _read_part(root, s, shard), shards))
        write_sidecar_index(root / split, index, [part.shard for part in parts])
        report.images += len(index)
        for part in parts:
            report.regions += part.regions
            report.without += part.without
            report.bad += len(part.bad)
            lines += [orjson.dumps({"split": split, **asdict(bad)}) + b"\n" for bad in part.bad]
    write_bytes(root / "quarantine.jsonl", b"".join(lines))
    provenance.write_card(
        root, SOURCE, dict(settings), teacher, tuple(indexes), report=asdict(report), **facts
    )
    remove_tree(root / _PARTS)
    return report


def stored_report(root: Location) -> PriorsReport:
    """The report of a folder that is complete."""
    return PriorsReport(**orjson.loads(read_bytes(root / provenance.CARD_NAME))["report"])


def _part_path(root: Location, split: str, shard: int) -> Location:
    return root / _PARTS / f"{split}-{shard:06d}.json"


def _read_part(root: Location, split: str, shard: int) -> _Part:
    return _Part.decode(read_bytes(_part_path(root, split, shard)))
