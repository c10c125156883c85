"""SA-1B's own tars as a data set: an index says where their samples lie, and nothing is copied.

The tars (`sa_000000.tar`, …) hold `./sa_1.jpg`, `./sa_1.json` and so on, which is the layout of our
shards. They may be links, or lie behind a URL. Whole tars are held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import orjson

from datamodules.importers.building import splits_of, vocabulary_hash
from datamodules.importers.making import SPLITS, ImportReport
from datamodules.shards import provenance
from datamodules.shards.entries import write_index
from datamodules.shards.indexing import index_shards
from datamodules.storage import list_files, location, make_folder, read_bytes, write_bytes
from datamodules.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tap_platform.config.sources import Sa1bSource

IMPORTER = 1
"""Counts up whenever the same tars give another index."""


def index_sa1b(
    source: Sa1bSource, vocabulary: Vocabulary, show: Callable[[int, int], None] | None = None
) -> ImportReport:
    """Index SA-1B's tars, go on with an index that was begun, or keep the one that is there.

    Killed and called again, it reads only the tars that it has not read.

    Args:
        source: where the tars lie, where the index goes, and the share of tars held out.
        vocabulary: the concepts to name regions by; SA-1B has none of its own.
        show: called with (tars done, tars in all) after each tar.

    Raises:
        ValueError: if there is no tar, one of them is broken, or the folder of the index holds
            something else or cannot be written to.
    """
    folder, out = location(source.path), location(source.shards)
    splits = splits_of(
        [PurePath(tar.name).stem for tar in list_files(folder, "*.tar")], source.val_fraction
    )
    if not splits:
        raise ValueError(f"no tars in {folder}: give the folder that holds SA-1B's *.tar files")
    settings = {
        "tars": hashlib.sha256("\n".join(splits).encode()).hexdigest(),
        "folder": str(folder.absolute() if isinstance(folder, Path) else folder),
        "vocabulary": vocabulary_hash(vocabulary),
        "concept_dim": int(vocabulary.embeddings.shape[1]),
        "val_fraction": source.val_fraction,
        "checksums": source.checksums,
        "importer": IMPORTER,
    }
    if provenance.is_made(out, "sa1b", settings):
        card = orjson.loads(read_bytes(out / provenance.CARD_NAME))
        return ImportReport(**card["report"])
    provenance.begin(out, "sa1b", settings)
    report = ImportReport()
    done = 0
    for split in SPLITS:
        chosen = {f"{name}.tar" for name, its in splits.items() if its == split}

        def show_all(tars: int, _: int, before: int = done) -> None:
            if show is not None:
                show(before + tars, len(splits))

        make_folder(out / split)
        if chosen:
            threads = max(source.import_workers, 4)
            index = index_shards(folder, out / split, source.checksums, show_all, threads, chosen)
            report.images[split] = len(index)
        else:
            write_index(out / split, [])
        done += len(chosen)
    vocabulary.save(out / "vocabulary.safetensors")
    write_bytes(out / "quarantine.jsonl", b"")
    provenance.write_card(out, "sa1b", settings, source.priors, SPLITS, report=asdict(report))
    return report
