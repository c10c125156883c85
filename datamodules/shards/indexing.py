"""Tars that others made become shards by an index alone: nothing in them is rewritten."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import orjson

from datamodules.shards.entries import Members, ShardEntry, file_name, write_index
from datamodules.shards.index import DataIndex
from datamodules.shards.tar import PassingFile, scan_tar
from datamodules.storage import (
    Location,
    list_files,
    location,
    make_folder,
    read_blocks,
    read_bytes,
    reason,
    version_of,
    write_bytes,
)

MEMBERS = {
    "jpg": "image",
    "jpeg": "image",
    "png": "image",
    "json": "annotation",
    "priors.npy": "priors",
}
"""What a member of a sample is, by its extension."""

PARTS_NAME = ".parts"
"""Folder of what is known of each tar."""
Show: TypeAlias = Callable[[int, int], None]
"""Told (tars done, tars in all)."""


def index_shards(
    folder: str | Location,
    out: str | Location | None = None,
    checksums: bool = True,
    show: Show | None = None,
    threads: int = 4,
    chosen: Container[str] | None = None,
) -> DataIndex:
    """Index tars that others made, such as SA-1B's own, without changing them.

    A sample is every member of a tar with the same path up to its first dot, wherever in the tar
    they lie. A tar that was cut is indexed up to the cut; what its last sample lacks is found when
    it is read, so that it counts as a bad sample. What is known of each tar is kept in `.parts`:
    the next call reads only the tars that are new or have changed.

    Args:
        folder: path or URL of the folder with `*.tar`.
        out: where to write the index, if not in `folder`; it then names the tars where they lie.
        checksums: take the sha256 of each tar, for which every byte is read. Without, only the
            headers of local tars are read; remote tars are read whole in any case.
        show: called after each tar.
        threads: tars read at once.
        chosen: names of the tars to take; None takes all.

    Raises:
        ValueError: if the folder is missing, holds no tar, or one of them is not a tar or cannot be
            read.
        OSError: if the index cannot be written.
    """
    folder = location(folder)
    out = folder if out is None else location(out)
    tars = list_files(folder, "*.tar")
    if chosen is not None:
        tars = [tar for tar in tars if tar.name in chosen]
    if not tars:
        raise ValueError(f"no tars in {folder}: give the folder that holds the shards themselves")
    make_folder(out / PARTS_NAME)
    names = [tar.name if out == folder else str(_absolute(tar)) for tar in tars]
    with ThreadPoolExecutor(threads) as pool:
        entries = pool.map(partial(_entry, out, checksums), names, tars)
        write_index(out, _shown(entries, show, len(names)))
    return DataIndex.load(out)


def _shown(entries: Iterator[ShardEntry], show: Show | None, of: int) -> Iterator[ShardEntry]:
    for done, entry in enumerate(entries, 1):
        if show is not None:
            show(done, of)
        yield entry


def _absolute(tar: Location) -> Location:
    return tar.absolute() if isinstance(tar, Path) else tar


def _entry(out: Location, checksums: bool, name: str, tar: Location) -> ShardEntry:
    """What was kept of a tar that has not changed since, or else what it holds."""
    try:
        version = version_of(tar)
        kept = _kept(out, name, version) if version else None
        if kept is not None and (kept.sha256 or not checksums):
            return kept
        entry = _scan(name, tar, checksums)
    except OSError as error:
        raise ValueError(f"{tar} cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise ValueError(f"{tar} {error}") from error
    _keep(out, entry, version)
    return entry


def _scan(name: str, tar: Location, checksums: bool) -> ShardEntry:
    if isinstance(tar, Path) and not checksums:
        with tar.open("rb") as file:
            return ShardEntry(name, tar.stat().st_size, "", members_of(scan_tar(file)))
    passing = PassingFile(read_blocks(tar))
    members = members_of(scan_tar(passing))
    passing.drain()
    return ShardEntry(name, passing.size, passing.digest.hexdigest(), members)


def members_of(files: Iterator[tuple[str, int, int]]) -> list[Members]:
    """The samples of a tar, in the order in which they first appear.

    Args:
        files: name, byte offset and size of each of its files.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for name, offset, size in files:
        member = member_of(name)
        if member is not None:
            key, kind = member
            samples.setdefault(key, {})[kind] = (offset, size)
    return [Members(key, **places) for key, places in samples.items()]


def member_of(name: str) -> tuple[str, str] | None:
    """Key of the sample that a file of a tar belongs to, and what it is; None if to none."""
    extension = name.rpartition("/")[2].partition(".")[2]
    kind = MEMBERS.get(extension.lower())
    if kind is None:
        return None
    return name[: len(name) - len(extension) - 1].removeprefix("./"), kind


def _keep(out: Location, entry: ShardEntry, version: str) -> None:
    members = [[key, *chain(*places)] for key, *places in entry.members]
    record = {"version": version, **entry._asdict(), "members": members}
    write_bytes(_part(out, entry.name), orjson.dumps(record))


def _kept(out: Location, name: str, version: str) -> ShardEntry | None:
    """What was kept of a tar, if it was of that version; a broken record is none."""
    try:
        record = orjson.loads(read_bytes(_part(out, name)))
        if (record["name"], record["version"]) != (name, version):
            return None
        members = [
            Members(key, (a, b), (c, d), (e, f)) for key, a, b, c, d, e, f in record["members"]
        ]
        return ShardEntry(name, record["size"], record["sha256"], members)
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def _part(out: Location, name: str) -> Location:
    return out / PARTS_NAME / f"{file_name(name)}.json"
