"""A folder of scenes: made once, in one step, and kept while its settings stay the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.scenes.annotation import SPLITS, make_sample
from datamodules.scenes.appearance import CONCEPTS
from datamodules.shards.index import INDEX_NAME, sha256
from datamodules.shards.records import Sample
from datamodules.shards.writer import ShardWriter
from datamodules.storage import atomic_folder
from datamodules.vocabulary import Vocabulary
from tap_platform.config.data import ScenesSource

PRIOR_KIND = "scenes oracle"
"""What the priors and the vocabulary are: embeddings of the names of what was drawn, with noise."""
GENERATOR = 1
"""Counts up whenever the same seed gives other scenes, so that no old folder is kept for it."""
SAMPLES_PER_SHARD = 64


def make_scenes(
    config: ScenesSource, dim: int, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Make a data set of scenes, or keep the one that is there.

    The folder appears whole or not at all: shards of both splits with their indexes,
    `vocabulary.safetensors` and `dataset.json`, which tells the settings and the hashes.

    Args:
        config: Where, how many, how large, and from which seed.
        dim: Width of the concept space of the priors and the vocabulary.
        progress: Called with (scenes made, scenes in all) after each scene.

    Returns:
        The folder.

    Raises:
        ValueError: The folder holds something else, or scenes of other settings, or cannot be
            written to. Nothing has been drawn by then.
    """
    folder = Path(config.path)
    settings = _settings(config, dim)
    if (folder / "dataset.json").exists():
        _require_same(folder, settings)
        return folder
    counts = {"train": config.train_scenes, "val": config.val_scenes}
    with atomic_folder(folder) as draft:
        done = 0
        for split in SPLITS:
            with ShardWriter(draft / split, SAMPLES_PER_SHARD) as writer:
                for number in range(counts[split]):
                    writer.write(_make_sample(config, split, number, dim))
                    done += 1
                    if progress is not None:
                        progress(done, sum(counts.values()))
        Vocabulary.from_names(CONCEPTS, dim, PRIOR_KIND).save(draft / "vocabulary.safetensors")
        _write_provenance(draft, settings)
    return folder


def _make_sample(config: ScenesSource, split: str, number: int, dim: int) -> Sample:
    size, smallest = config.scene_size, config.smallest_object
    return make_sample(config.scene_seed, split, number, size, dim, smallest)


def _settings(config: ScenesSource, dim: int) -> dict[str, float]:
    """What the bytes of the data set depend on."""
    fields = {"train_scenes", "val_scenes", "scene_size", "scene_seed", "smallest_object"}
    return {**config.model_dump(include=fields), "concept_dim": dim, "generator": GENERATOR}


def _write_provenance(folder: Path, settings: dict[str, float]) -> None:
    record = {
        "source": "scenes",
        "settings": settings,
        "priors": PRIOR_KIND,
        "indexes": {split: sha256(folder / split / INDEX_NAME) for split in SPLITS},
    }
    (folder / "dataset.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _require_same(folder: Path, settings: dict[str, float]) -> None:
    found = _read_settings(folder / "dataset.json")
    differences = [
        f"{name} is {found.get(name)} there and {wanted} here"
        for name, wanted in settings.items()
        if found.get(name) != wanted
    ]
    if differences:
        raise ValueError(
            f"{folder} holds scenes of other settings: {'; '.join(differences)}. Set data.path to "
            "another folder, or remove this one to make it anew."
        )


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings that a folder of scenes was made with."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        source, settings = record["source"], dict(record["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error!r}). Remove {path.parent} to make it anew, or set "
            "data.path to another folder."
        ) from error
    if source != "scenes":
        raise ValueError(
            f"{path.parent} holds a data set of source {source!r}, not scenes. Set data.path to "
            "another folder."
        )
    return settings
