"""COCO-format folders to shards: every image keeps its bytes, every fault is listed."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import orjson

from datamodules.decoding.pictures import picture_size
from datamodules.importers.coco_files import (
    CocoFolder,
    CocoImage,
    Fault,
    annotation_id,
    concept_name,
    read_coco,
    unknown_categories,
)
from datamodules.importers.coco_regions import region_of
from datamodules.shards import provenance
from datamodules.shards.records import Region, Sample
from datamodules.shards.writer import ShardWriter
from datamodules.storage import atomic_folder, reason
from datamodules.vocabulary import Vocabulary

IMPORTER = 1
"""Counts up whenever the same folder gives other shards."""
SAMPLES_PER_SHARD = 256
SPLITS = ("train", "val")
SHOWN = 5


@dataclass(slots=True)
class ImportReport:
    """What an import made, and what it left out."""

    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """Images written, by split."""
    regions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """Regions written, by split."""
    images_without_regions: int = 0
    """Images left out because nothing on them is annotated."""
    crowds: int = 0
    """Annotations left out because they cover a crowd, not one object."""
    faulty_images: int = 0
    """Images left out because of a fault; `quarantine.jsonl` lists them."""
    faulty_annotations: int = 0
    """Annotations left out because of a fault; `quarantine.jsonl` lists them."""

    def sentence(self) -> str:
        """What was imported and left out, for people."""
        kept = " and ".join(
            f"{self.images[split]} {split} images ({self.regions[split]} regions)"
            for split in SPLITS
        )
        left_out = {
            "crowds": self.crowds,
            "images without regions": self.images_without_regions,
            "faulty images": self.faulty_images,
            "faulty annotations": self.faulty_annotations,
        }
        words = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        faults = self.faulty_images + self.faulty_annotations
        listed = " (listed in quarantine.jsonl)" if faults else ""
        return f"imported {kept}" + (f"; left out {words}{listed}" if words else "")


def import_coco(
    folder: str | Path,
    out: str | Path,
    vocabulary: Vocabulary,
    val_fraction: float,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Import a COCO-format folder, or keep the import that is there.

    `out` appears whole or not at all: shards of both splits, `vocabulary.safetensors`,
    `quarantine.jsonl` and `dataset.json`. A region's prior is the embedding of its category's name.
    A crowd is not one object: its annotation is left out and counted.

    Args:
        folder: `annotations.json` and `images/`, or COCO's own layout.
        out: the data set's folder.
        vocabulary: names and embeddings of the concepts, `[V, D]`.
        val_fraction: share of images held out, by a hash of their id, in [0, 1); at least one image
            if above 0. COCO's own layout keeps its own split if it has one.
        progress: called with (images done, images in all) after each image.

    Returns:
        What was written and what was left out.

    Raises:
        ValueError: if the folder is missing, broken or empty, has a category that the vocabulary
            does not know, `out` cannot be written to or holds something else, or every image is
            faulty. Nothing is left behind.
    """
    coco, out = read_coco(Path(folder)), Path(out)
    _check_categories(coco, vocabulary)
    settings = _settings(coco, vocabulary, val_fraction)
    if provenance.is_made(out, "coco", settings):
        return _stored_report(out)
    writing = _Import(coco, vocabulary)
    with atomic_folder(out) as draft:
        with (
            ShardWriter(draft / "train", SAMPLES_PER_SHARD) as train,
            ShardWriter(draft / "val", SAMPLES_PER_SHARD) as val,
        ):
            writing.write({"train": train, "val": val}, _splits(coco, val_fraction), progress)
        vocabulary.save(draft / "vocabulary.safetensors")
        lines = [orjson.dumps(asdict(fault)) + b"\n" for fault in writing.faults]
        (draft / "quarantine.jsonl").write_bytes(b"".join(lines))
        report = asdict(writing.report)
        provenance.write_card(draft, "coco", settings, vocabulary.kind, SPLITS, report=report)
    return writing.report


def _check_categories(coco: CocoFolder, vocabulary: Vocabulary) -> None:
    unknown = sorted(set(unknown_categories(coco, set(vocabulary.names))))
    if not unknown:
        return
    named = []
    for name in unknown[:SHOWN]:
        nearest = difflib.get_close_matches(name.lower(), vocabulary.names, n=1)
        named.append(f"{name!r}" + (f" (nearest: {nearest[0]!r})" if nearest else ""))
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    raise ValueError(
        f"the vocabulary does not know the category {', '.join(named)}{more}: rename it, or give a"
        " concept list that has it (data.vocabulary: a name, or a text file with one name a line)"
    )


def _settings(coco: CocoFolder, vocabulary: Vocabulary, val_fraction: float) -> dict[str, Any]:
    names = hashlib.sha256("\n".join(vocabulary.names).encode())
    names.update(np.ascontiguousarray(vocabulary.embeddings).tobytes())
    return {
        "annotations": coco.checksums,
        "vocabulary": names.hexdigest(),
        "concept_dim": int(vocabulary.embeddings.shape[1]),
        "val_fraction": val_fraction,
        "importer": IMPORTER,
    }


def _stored_report(out: Path) -> ImportReport:
    return ImportReport(**orjson.loads((out / provenance.CARD_NAME).read_bytes())["report"])


def _splits(coco: CocoFolder, val_fraction: float) -> dict[str, str]:
    """The split of each annotated image, by key."""
    images = [image for image in coco.images if image.annotations]
    shares = {image.key: _hash_share(image.key) for image in images}
    held_out = {key for key, share in shares.items() if share < val_fraction}
    if val_fraction and not held_out:
        held_out = {min(shares, key=shares.__getitem__)}
    if len(held_out) == len(shares):
        held_out.remove(max(shares, key=shares.__getitem__))
    return {
        image.key: image.split or ("val" if image.key in held_out else "train") for image in images
    }


def _hash_share(key: str) -> float:
    """A number in [0, 1) that depends on the key only."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2.0**48


class _Import:
    """One pass over the images: what is good goes to the writers, what is not is listed."""

    def __init__(self, coco: CocoFolder, vocabulary: Vocabulary) -> None:
        self._coco = coco
        self._embeddings = vocabulary.embeddings.astype(np.float16)
        self._indexes = vocabulary.indexes
        self._names = set(vocabulary.names)
        self.faults = list(coco.faults)
        self.report = ImportReport()

    def write(
        self,
        writers: dict[str, ShardWriter],
        splits: dict[str, str],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Write every usable image to the writer of its split."""
        total = len(self._coco.images)
        for done, image in enumerate(self._coco.images, start=1):
            sample = self._sample(image) if image.annotations else None
            if sample is not None and sample.regions:
                split = splits[image.key]
                writers[split].write(sample)
                self.report.images[split] += 1
                self.report.regions[split] += len(sample.regions)
            elif sample is not None or not image.annotations:
                self.report.images_without_regions += 1
            if progress is not None:
                progress(done, total)
        self.report.faulty_images = sum(fault.annotation is None for fault in self.faults)
        self.report.faulty_annotations = len(self.faults) - self.report.faulty_images
        if not self.report.images["train"]:
            first = "".join(
                f"\n  image {each.image}: {each.reason}" for each in self.faults[:SHOWN]
            )
            raise ValueError(f"no image is left to train on. The first faults:{first}")

    def _sample(self, image: CocoImage) -> Sample | None:
        """The sample of an image; None, and a fault, if the image cannot be used."""
        with self._listing(image, None):
            data = _read_image(image)
            height, width = picture_size(data)
            if (width, height) != (image.record["width"], image.record["height"]):
                raise ValueError(
                    f"the image has {width} x {height} pixels, its record says"
                    f" {image.record['width']} x {image.record['height']}"
                )
            regions = list(self._regions(image, height, width))
            rows = [self._indexes[region.category or ""] for region in regions]
            return Sample(image.key, data, width, height, regions, self._embeddings[rows])
        return None

    def _regions(self, image: CocoImage, height: int, width: int) -> Iterator[Region]:
        for record in image.annotations:
            if record.get("iscrowd"):
                self.report.crowds += 1
                continue
            with self._listing(image, annotation_id(record)):
                yield region_of(record, height, width, self._category(record))

    def _category(self, record: dict[str, Any]) -> str:
        identity = record.get("category_id")
        category = self._coco.categories.get(identity, "") if _is_plain(identity) else ""
        name = concept_name(category, self._names)
        if name is None:
            raise ValueError(f"category_id {identity} is not among the categories")
        return name

    @contextmanager
    def _listing(self, image: CocoImage, annotation: Any) -> Iterator[None]:
        """List a ValueError as a fault and go on after the block."""
        try:
            yield
        except ValueError as error:
            self.faults.append(Fault(image.file, image.identity, annotation, str(error)))


def _is_plain(identity: Any) -> bool:
    """Whether an id can name anything: JSON's lists and objects cannot."""
    return isinstance(identity, int | str)


def _read_image(image: CocoImage) -> bytes:
    name = PurePath(image.record["file_name"])
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"the file name {name} points outside the folder of images")
    try:
        return (image.folder / name).read_bytes()
    except OSError as error:
        raise ValueError(f"the image {name} cannot be read: {reason(error)}") from error
