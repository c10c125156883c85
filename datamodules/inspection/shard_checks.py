"""Whether a tar is the one that its index speaks of: its bytes, its members and their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from datamodules.inspection.findings import Kind
from datamodules.shards.index import DataIndex
from datamodules.shards.indexing import member_of
from datamodules.shards.reader import fault_of
from datamodules.shards.tar import PassingFile, scan_tar
from datamodules.storage import read_blocks

_KINDS = ("image", "annotation", "priors")


class ShardRemark(NamedTuple):
    """A finding about a shard, or about one key of it."""

    kind: Kind
    key: str | None
    detail: str


class _Found(NamedTuple):
    """A member of a sample, as it lies in a tar."""

    key: str
    kind: str
    place: tuple[int, int]


def check_shard(index: DataIndex, shard: int) -> list[ShardRemark]:
    """Read a tar from its first byte to its last, once, and compare it with its index.

    Raises:
        StoreError: as `fault_of`.
    """
    file = PassingFile(read_blocks(index.path(shard)))
    try:
        found, fault = _scan(file)
    except OSError as error:
        told = f"the shard {fault_of(index.path(shard), error)}"
        return [ShardRemark(Kind.UNREADABLE, None, told)]
    remarks = list(_changed(index, shard, file))
    if fault:
        return [*remarks, ShardRemark(Kind.INDEX, None, fault)]
    expected = _expected(index, shard)
    return [*remarks, *_misplaced(expected, found), *_disorder(list(expected), found)]


def _scan(file: PassingFile) -> tuple[list[_Found], str]:
    """The members of a tar, or why it is none; all of it is read either way."""
    found: list[_Found] = []
    fault = ""
    try:
        for name, offset, size in scan_tar(file):
            member = member_of(name)
            if member is not None:
                found.append(_Found(*member, (offset, size)))
    except ValueError as error:
        fault = str(error)
    file.drain()
    return found, fault


def _expected(index: DataIndex, shard: int) -> dict[str, dict[str, tuple[int, int]]]:
    """Where the index has the members of each key, those that it has, in its order."""
    alone = replace(index, sidecar=None)
    expected = {}
    for number in range(int(index.counts[shard])):
        key, *places = alone.members(shard, number)
        expected[key] = {
            kind: place for kind, place in zip(_KINDS, places, strict=True) if place[0] >= 0
        }
    return expected


def _changed(index: DataIndex, shard: int, file: PassingFile) -> Iterator[ShardRemark]:
    size, checksum = int(index.sizes[shard]), index.checksums[shard]
    if file.size != size:
        told = f"{file.size:,} bytes; the index has {size:,}"
        yield ShardRemark(Kind.CHECKSUM, None, told)
    elif checksum and file.digest.hexdigest() != checksum:
        told = f"sha256 {file.digest.hexdigest()[:12]}...; the index has {checksum[:12]}..."
        yield ShardRemark(Kind.CHECKSUM, None, told)


def _misplaced(
    expected: Mapping[str, Mapping[str, tuple[int, int]]], found: list[_Found]
) -> Iterator[ShardRemark]:
    """Members that lie elsewhere than the index says, that it lacks, or that are there twice."""
    places: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for key, kind, place in found:
        places.setdefault((key, kind), []).append(place)
    for (key, kind), there in places.items():
        if len(there) > 1:
            told = f"{len(there)} members are its {kind}"
            yield ShardRemark(Kind.DUPLICATE_KEY, key, told)
        if kind not in expected.get(key, {}):
            yield ShardRemark(Kind.INDEX, key, f"the index does not know its {kind}")
    end = max((offset for _, _, (offset, _) in found), default=0)
    behind = 0
    for key, members in expected.items():
        for kind, place in members.items():
            there = places.get((key, kind), [])
            if not there and place[0] > end:
                behind += 1
            elif place not in there:
                lies = f"lies at byte {there[0][0]:,}" if there else "is not in the tar"
                told = f"its {kind} {lies}; the index has it at byte {place[0]:,}"
                yield ShardRemark(Kind.INDEX, key, told)
    if behind:
        told = f"the last member is at byte {end:,}; the index has {behind:,} behind it"
        yield ShardRemark(Kind.INDEX, None, told)


def _disorder(keys: list[str], found: list[_Found]) -> Iterator[ShardRemark]:
    """Keys that do not follow one another as in the index, and members that lie apart."""
    numbers: dict[str, list[int]] = {}
    for number, member in enumerate(found):
        numbers.setdefault(member.key, []).append(number)
    there = [key for key in keys if key in numbers]
    for before, key in pairwise(there):
        if numbers[key][0] < numbers[before][0]:
            yield ShardRemark(Kind.KEY_ORDER, key, f"it lies before {before}, not behind it")
    for key, places in numbers.items():
        if places[-1] - places[0] >= len(places):
            yield ShardRemark(Kind.MEMBER_ORDER, key, "its members do not lie together")
            continue
        kinds = [found[number].kind for number in places]
        if kinds != sorted(kinds, key=_KINDS.index):
            yield ShardRemark(Kind.MEMBER_ORDER, key, f"its members are {', '.join(kinds)}")
