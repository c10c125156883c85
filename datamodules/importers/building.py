"""What every import shares: images and their annotations become a data set of shards.

An importer reads a source's annotation files and tells what is in them, as an `ImportPlan`; this
module reads the images, asks the plan for the region of each annotation, and lists what is faulty.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.pictures import picture_size
from datamodules.importers.making import SPLITS, ImportReport, MakingPlan, make_data_set
from datamodules.importers.shard_tasks import Fault, Outcome, ShardTask, Show, version
from datamodules.shards.records import Region, Sample
from datamodules.storage import Location, location, read_bytes, reason
from datamodules.vocabulary import Vocabulary

__all__ = [
    "Fault",
    "ImageRecord",
    "ImportPlan",
    "ImportReport",
    "LeftOut",
    "build_data_set",
    "read_file",
    "split_of",
    "splits_of",
    "vocabulary_hash",
]

WITHOUT_REGIONS = "images without regions"
Split: TypeAlias = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and what its source says of it."""

    key: str
    """Key of the sample: no dots, no slashes, unlike all others of the source."""
    split: Split
    image: str
    """Path or URL of the image."""
    annotations: list[Any]
    """What `region_of` is asked about, as the source has it."""
    file: str
    """Name of the annotation file, for the list of faults."""
    identity: Any
    """The image's id in the source, for the list of faults."""
    size: tuple[int, int] | None = None
    """Width and height that the source claims, in pixels; another size is a fault."""
    files: tuple[str, ...] = ()
    """Files besides the image that its regions are read from."""


class LeftOut(NamedTuple):
    """An annotation that is left out without being faulty."""

    what: str
    """What it is, in the plural, such as `crowds`; the report counts it."""


RegionOf: TypeAlias = Callable[[Any, int, int], Region | LeftOut]
"""The region of one annotation of an image, from its record, width and height in pixels; raises
ValueError if the annotation is faulty. It travels to other processes: a function of a module, or a
`functools.partial` of one."""


@dataclass(frozen=True)
class ImportPlan:
    """A source, read as far as its annotations."""

    source: str
    """Name of the source, as in `data.source`."""
    settings: dict[str, Any]
    """All that the bytes of the data set depend on: sha256 of annotation files, the vocabulary,
    the share held out, a version of the importer that counts up when it gives other bytes."""
    records: Sequence[ImageRecord]
    """The images, in the order of the samples."""
    faults: Sequence[Fault]
    """What is faulty about the annotation files themselves."""
    vocabulary: Vocabulary
    """The concepts."""
    priors: str
    """`category_names`: a region's prior is its category's embedding, so every region needs a
    category of the vocabulary. `none`: there are no priors, and a region may have any category."""
    region_of: RegionOf
    """Makes the region of an annotation."""
    annotations_of: Callable[[ImageRecord, int, int], list[Any]] | None = None
    """Reads the annotations of an image whose record has none, where each image has files of its
    own, from its record, width and height in pixels; raises ValueError if they are broken."""
    samples_per_shard: int = 256
    """Images in a shard, at most; each is one task."""
    left_out: dict[str, int] = field(default_factory=dict)
    """What the plan has left out already."""


def build_data_set(
    plan: ImportPlan,
    out: str | Location,
    workers: int = 0,
    show: Show | None = None,
    mend: bool = False,
) -> ImportReport:
    """Import a source to shards, go on with an import that was begun, or keep what is there.

    Args:
        plan: the source.
        out: folder or URL of the data set.
        workers: Ray Data tasks that import at once, one CPU each, in the caller's Ray session; 0
            imports in this process. The bytes are the same.
        show: called with (images done, images in all) as it goes on.
        mend: try faulty images again whose files have changed since the import.

    Returns:
        What the data set holds and what was left out of it.

    Raises:
        ValueError: if `out` holds something else or cannot be written to, or no image is left to
            train on; then nothing is left behind.
    """
    records = [each for each in plan.records if each.annotations or plan.annotations_of]
    left_out = Counter(plan.left_out)
    left_out[WITHOUT_REGIONS] += len(plan.records) - len(records)
    making = MakingPlan(
        source=plan.source,
        settings={**plan.settings, "samples_per_shard": plan.samples_per_shard},
        tasks=list(_tasks(records, plan.samples_per_shard)),
        make=_Importer(plan),
        vocabulary=plan.vocabulary,
        priors=plan.priors,
        left_out=dict(left_out),
        faults=plan.faults,
    )
    return make_data_set(making, out, workers, show, mend)


def split_of(key: str, val_fraction: float) -> Split:
    """The split of an image, by a hash of its key."""
    return "val" if _hash_share(key) < val_fraction else "train"


def splits_of(keys: Iterable[str], val_fraction: float) -> dict[str, Split]:
    """The split of every image: as `split_of` says, but at least one is held out and one is not.

    Args:
        keys: keys of the images.
        val_fraction: share held out, in [0, 1); 0 holds nothing out.
    """
    splits = {key: split_of(key, val_fraction) for key in keys}
    held_out = sum(split == "val" for split in splits.values())
    if val_fraction and splits and not held_out:
        splits[min(splits, key=_hash_share)] = "val"
        held_out = 1
    if held_out and held_out == len(splits):
        splits[max(splits, key=_hash_share)] = "train"
    return splits


def vocabulary_hash(vocabulary: Vocabulary) -> str:
    """What tells two vocabularies apart, for the settings of a plan."""
    digest = hashlib.sha256("\n".join(vocabulary.names).encode())
    digest.update(np.ascontiguousarray(vocabulary.embeddings).tobytes())
    return digest.hexdigest()


def _hash_share(key: str) -> float:
    """A number in [0, 1) that depends on the key only."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2.0**48


def _tasks(records: Sequence[ImageRecord], samples_per_shard: int) -> Iterator[ShardTask]:
    for split in SPLITS:
        own = [record for record in records if record.split == split]
        for number, start in enumerate(range(0, len(own), samples_per_shard)):
            work = own[start : start + samples_per_shard]
            yield ShardTask(split, number, len(work), work)


class _Importer:
    """Makes the samples of some images: what is good is written, what is not is listed."""

    def __init__(self, plan: ImportPlan) -> None:
        self._region_of = plan.region_of
        self._annotations_of = plan.annotations_of
        self._indexes: dict[str, int] = {}
        self._embeddings: NDArray[np.float16] | None = None
        if plan.priors == "category_names":
            self._indexes = plan.vocabulary.indexes
            self._embeddings = plan.vocabulary.embeddings.astype(np.float16)

    def __call__(self, records: Sequence[ImageRecord]) -> Iterator[Outcome]:
        return map(self._outcome, records)

    def _outcome(self, record: ImageRecord) -> Outcome:
        versions = {path: version(path) for path in (record.image, *record.files)}
        faults: list[Fault] = []
        left_out: Counter[str] = Counter()
        try:
            sample = self._sample(record, faults, left_out)
        except ValueError as error:
            fault = Fault(record.file, record.identity, None, str(error))
            return Outcome(None, {}, [fault], versions)
        if not sample.regions:
            left_out[WITHOUT_REGIONS] += 1
        watch = versions if faults else {}
        return Outcome(sample if sample.regions else None, left_out, faults, watch)

    def _sample(self, record: ImageRecord, faults: list[Fault], left_out: Counter[str]) -> Sample:
        data = read_file("image", record.image)
        height, width = picture_size(data)
        if record.size and (width, height) != record.size:
            claimed = f"{record.size[0]} x {record.size[1]}"
            raise ValueError(f"the image has {width} x {height} pixels, its record says {claimed}")
        annotations = record.annotations
        if not annotations and self._annotations_of:
            annotations = self._annotations_of(record, width, height)
        regions = []
        for annotation in annotations:
            try:
                region = self._region_of(annotation, width, height)
                if isinstance(region, LeftOut):
                    left_out[region.what] += 1
                else:
                    self._check_category(region)
                    regions.append(region)
            except ValueError as error:
                identity = annotation_id(annotation)
                faults.append(Fault(record.file, record.identity, identity, str(error)))
        return Sample(record.key, data, width, height, regions, self._priors(regions))

    def _check_category(self, region: Region) -> None:
        if self._embeddings is not None and region.category not in self._indexes:
            raise ValueError(f"the vocabulary does not know the category {region.category!r}")

    def _priors(self, regions: Sequence[Region]) -> NDArray[np.float16] | None:
        if self._embeddings is None:
            return None
        return self._embeddings[[self._indexes[region.category or ""] for region in regions]]


def annotation_id(record: Any) -> Any:
    """What names an annotation in the list of faults."""
    identity = record.get("id") if isinstance(record, dict) else None
    return "without id" if identity is None else identity


def read_file(what: str, path: str) -> bytes:
    """The bytes of a file of a source.

    Args:
        what: what it is, as in `image`, for people.
        path: path or URL.

    Raises:
        ValueError: if it is not there or is not to be read, which is its own fault.
        OSError: if a server does not answer, which is not.
    """
    place = location(path)
    try:
        return read_bytes(place)
    except OSError as error:
        if isinstance(place, Path) or isinstance(error, FileNotFoundError | PermissionError):
            name = PurePath(path).name
            raise ValueError(f"the {what} {name} cannot be read: {reason(error)}") from error
        raise
