"""A folder of scenes: made once, in one step, and kept while its settings stay the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datamodules.scenes.annotation import SPLITS, make_sample
from datamodules.scenes.appearance import concepts_of
from datamodules.shards import provenance
from datamodules.shards.records import Sample
from datamodules.shards.writer import ShardWriter
from datamodules.storage import atomic_folder
from datamodules.vocabulary import Vocabulary
from tap_platform.config.data import ScenesSource

SOURCE = "scenes"
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
    if provenance.is_made(folder, SOURCE, settings):
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
        concepts = concepts_of(config.shapes)
        Vocabulary.from_names(concepts, dim, PRIOR_KIND).save(draft / "vocabulary.safetensors")
        provenance.write_card(draft, SOURCE, settings, PRIOR_KIND, SPLITS)
    return folder


def _make_sample(config: ScenesSource, split: str, number: int, dim: int) -> Sample:
    size, smallest = config.scene_size, config.smallest_object
    return make_sample(config.scene_seed, split, number, size, dim, smallest, config.shapes)


def _settings(config: ScenesSource, dim: int) -> dict[str, float]:
    """What the bytes of the data set depend on."""
    fields = {"train_scenes", "val_scenes", "scene_size", "scene_seed", "smallest_object", "shapes"}
    return {**config.model_dump(include=fields), "concept_dim": dim, "generator": GENERATOR}
