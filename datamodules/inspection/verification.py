"""Every shard and sample of a data set, checked in this process or by Ray Data tasks."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import orjson

from datamodules.inspection.data_set import Part, open_parts, place_of, with_priors
from datamodules.inspection.findings import BadRecord, Finding, Kind, Tally
from datamodules.inspection.sample_checks import Rules, check_sample
from datamodules.inspection.shard_checks import check_shard
from datamodules.shards.entries import INDEX_NAME, SAMPLES_NAME, sha256
from datamodules.shards.provenance import CARD_NAME
from datamodules.shards.reader import ShardReader
from datamodules.storage import Location, exists, location, read_bytes, read_range
from datamodules.vocabulary import Vocabulary

VOCABULARY_NAME = "vocabulary.safetensors"
_TRIES = 10
"""Priors whose width is looked at before it is given up."""
_HEADER_BYTES = 4096


@dataclass
class Verification:
    """What was checked, and what was found."""

    path: str
    fast: bool
    shards: int
    samples: int
    tally: Tally = field(default_factory=Tally)

    def as_dict(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "path": self.path,
            "clean": not self.tally.findings,
            "pixels_decoded": not self.fast,
            "shards": self.shards,
            **self.tally.as_dict(),
        }


def verify(
    path: str,
    *,
    priors: str | None = None,
    vocabulary: str | None = None,
    fast: bool = False,
    workers: int = 0,
    show: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check a data set.

    Args:
        path: folder with `train/` and `val/`, or a folder of shards; a path or URL.
        priors: sidecar folder with the priors, laid out as `path` is.
        vocabulary: file of the concepts; None takes the sidecar's own, or that of the data set, or
            none if there is none.
        fast: leave the pixels of the images undecoded.
        workers: Ray Data tasks at work at once, one CPU each, in the caller's Ray session; 0 checks
            in this process. The result is the same.
        show: called with (samples done, samples in all) as it goes on.

    Raises:
        ValueError: if the data set cannot be opened.
    """
    parts, tally = _opened(path, priors)
    rules = _rules(parts, path, priors, vocabulary, fast)
    samples = sum(len(part.index) for part in parts)
    shards = [(part, shard) for part in parts for shard in range(len(part.index.names))]
    tally.add(_provenance(location(path), parts))
    tally.add(_repeated_keys(parts))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if show is not None and count:
            show(done, samples)

    if workers:
        tallies = _with_ray(shards, rules, workers, advance)
    else:
        tallies = [check_one(part, shard, rules, advance) for part, shard in shards]
    for each in tallies:
        tally.merge(each)
    return Verification(path, fast, len(shards), samples, tally)


def check_one(
    part: Part, shard: int, rules: Rules, advance: Callable[[int], None] = lambda _: None
) -> Tally:
    """Check one shard, its sidecar's shard and its samples.

    Args:
        part: the folder that it is in.
        shard: its number.
        rules: what the samples are measured against.
        advance: called with the samples that are done since the last call.
    """
    tally = Tally()
    index = part.index
    name = index.names[shard]
    for each in (index, index.sidecar):
        if each is None:
            continue
        where = part.name if each is index else f"{part.name} priors"
        remarks = check_shard(each, shard)
        tally.add(Finding(kind, where, name, key, None, told) for kind, key, told in remarks)
        if any(remark.kind in (Kind.CHECKSUM, Kind.UNREADABLE) for remark in remarks):
            tally.damaged.append(str(each.path(shard)))
    with ShardReader(index) as reader:
        for number in range(int(index.counts[shard])):
            raw = reader.read(shard, number)
            remarks_on_it, refusal = check_sample(raw, rules)
            tally.samples += 1
            tally.add(
                Finding(kind, part.name, name, raw.key, region, told)
                for kind, region, told in remarks_on_it
            )
            if refusal is not None:
                tally.bad.append(BadRecord(part.name, name, raw.key, refusal))
            advance(1)
    place = str(index.path(shard))
    if tally.bad and place not in tally.damaged:
        tally.damaged.append(place)
    return tally


def _with_ray(
    shards: Sequence[tuple[Part, int]],
    rules: Rules,
    workers: int,
    advance: Callable[[int], None],
) -> list[Tally]:
    """Check shards by Ray Data, one a row; the tallies are in the order of the shards."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    parts = {part.name: part for part, _ in shards}
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items(
            [
                {"number": number, "part": part.name, "shard": shard}
                for number, (part, shard) in enumerate(shards)
            ],
            override_num_blocks=max(1, len(shards)),
        ).map(
            partial(_check_row, parts, rules),
            compute=ray.data.TaskPoolStrategy(workers),
            num_cpus=1,
        )
    found: dict[int, Tally] = {}
    for row in rows.iter_rows():
        found[row["number"]] = pickle.loads(row["tally"])
        advance(found[row["number"]].samples)
    return [found[number] for number in sorted(found)]


def _check_row(parts: dict[str, Part], rules: Rules, row: dict[str, Any]) -> dict[str, Any]:
    tally = check_one(parts[row["part"]], row["shard"], rules)
    return {"number": row["number"], "tally": pickle.dumps(tally)}


def _opened(path: str, priors: str | None) -> tuple[tuple[Part, ...], Tally]:
    """The parts of a data set, joined with their priors where these are of the same samples."""
    parts = open_parts(path)
    tally = Tally()
    if priors is None:
        return parts, tally
    joined = []
    for part in parts:
        try:
            joined.append(with_priors(part, priors))
        except ValueError as error:
            tally.add([Finding(Kind.SIDECAR, part.name, None, None, None, str(error))])
            joined.append(part)
    return tuple(joined), tally


def _rules(
    parts: Sequence[Part], path: str, priors: str | None, vocabulary: str | None, fast: bool
) -> Rules:
    """What the samples are measured against: the vocabulary that training would take."""
    place = location(vocabulary) if vocabulary else _own_vocabulary(path, priors)
    if place is None:
        return Rules(None, _width_of_priors(parts), fast)
    concepts = Vocabulary.load(place)
    return Rules(frozenset(concepts.names), concepts.embeddings.shape[1], fast)


def _own_vocabulary(path: str, priors: str | None) -> Location | None:
    roots = [location(priors)] if priors else []
    roots += [location(path), location(path).parent]
    places = (root / VOCABULARY_NAME for root in roots)
    return next((place for place in places if exists(place)), None)


def _width_of_priors(parts: Sequence[Part]) -> int | None:
    """Columns of the first priors whose header can be read."""
    for part in parts:
        offsets = (part.index.sidecar or part.index).samples["members"][:, 2, 0]
        for position in np.flatnonzero(offsets >= 0)[:_TRIES].tolist():
            place = place_of([part], position)
            offset, size = part.index.members(place.shard, place.number).priors
            stop = offset + min(size, _HEADER_BYTES)
            try:
                header = io.BytesIO(read_range(part.index.priors_path(place.shard), offset, stop))
                np.lib.format.read_magic(header)
                return int(np.lib.format.read_array_header_1_0(header)[0][1])
            except (OSError, ValueError, IndexError):
                continue
    return None


def _provenance(root: Location, parts: Sequence[Part]) -> Iterator[Finding]:
    """Files that are not those whose hashes were noted."""
    for part in parts:
        noted = orjson.loads(read_bytes(part.folder / INDEX_NAME))["samples_sha256"]
        if sha256(part.folder / SAMPLES_NAME) != noted:
            told = f"{SAMPLES_NAME} is not the file that {INDEX_NAME} speaks of"
            yield Finding(Kind.PROVENANCE, part.name, None, None, None, told)
        card = (root if part.inside else root.parent) / CARD_NAME
        if exists(card) and _noted(card, part) not in (None, sha256(part.folder / INDEX_NAME)):
            told = f"{INDEX_NAME} is not the file that {CARD_NAME} speaks of"
            yield Finding(Kind.PROVENANCE, part.name, None, None, None, told)


def _noted(card: Location, part: Part) -> str | None:
    """The hash of a part's index in `dataset.json`; empty if the file is broken."""
    try:
        indexes = orjson.loads(read_bytes(card))["indexes"]
        return None if indexes is None else indexes.get(part.folder.name)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _repeated_keys(parts: Sequence[Part]) -> Iterator[Finding]:
    """Keys that more than one sample has, in one part or in several."""
    keys = np.concatenate([part.index.samples["key"] for part in parts])
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    for number in twice.tolist():
        first, second = (place_of(parts, int(order[number + step])) for step in (0, 1))
        told = f"also in {first.part.name} {first.part.index.names[first.shard]}"
        key = second.part.index.members(second.shard, second.number).key
        name = second.part.index.names[second.shard]
        yield Finding(Kind.DUPLICATE_KEY, second.part.name, name, key, None, told)
