"""Where samples come from and how they become batches."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from tap_platform.config.base import Section
from tap_platform.config.sources import (
    CocoSource,
    GritSource,
    LvisSource,
    MaskFolderSource,
    RefCocoSource,
    Sa1bSource,
    VisualGenomeSource,
)
from tap_platform.config.stream import StreamConfig


class ShardSource(StreamConfig):
    """Shards that exist already."""

    source: Literal["shards"] = "shards"
    """Picks shards that exist already."""
    located: ClassVar[tuple[str, ...]] = ("path", "priors", "vocabulary")

    path: str
    """Folder or URL with `train/` and `val/`, each with its tars and an `index.json`."""
    priors: str | None = None
    """Folder or URL of a sidecar: `train/` and `val/` with the priors of the same samples, where
    the shards themselves hold none, or others."""
    vocabulary: str | None = None
    """A `vocabulary.safetensors` in place of the data set's own, or of the sidecar's if that has
    one."""


class ScenesSource(StreamConfig):
    """Procedural scenes, made on first use."""

    source: Literal["scenes"] = "scenes"
    """Picks procedural scenes."""
    path: str = "data/scenes"
    """Folder that the shards are made in, or found in."""
    train_scenes: int = Field(512, gt=0)
    """Scenes to learn from."""
    val_scenes: int = Field(64, gt=0)
    """Scenes held out."""
    scene_size: int = Field(256, ge=32)
    """Long side of a scene, in pixels."""
    smallest_object: float = Field(0.06, ge=0.01, le=0.5)
    """Smallest diameter of an object, as a share of the long side; the largest is 0.6."""
    shapes: int = Field(12, ge=1, le=12)
    """How many shapes objects have, the frequent ones first; with 8 colours each, fewer shapes make
    fewer concepts, which are learned sooner."""
    scene_seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the scenes themselves."""


class MixturePart(Section):
    """One data set of a mixture: shards that exist already."""

    located: ClassVar[tuple[str, ...]] = ("path", "priors", "vocabulary")

    path: str
    """Folder or URL with `train/` and `val/`, each with its tars and an `index.json`."""
    weight: float = Field(1.0, gt=0)
    """Share of the samples that it gives, relative to the other parts. It becomes a whole number of
    1024 slots, so the smallest share is about a thousandth."""
    priors: str | None = None
    """Folder or URL of a sidecar with the priors, as `data.source=shards` takes it."""
    vocabulary: str | None = None
    """A `vocabulary.safetensors` in place of the data set's own, or of the sidecar's if that has
    one."""


class MixtureSource(StreamConfig):
    """Several data sets of shards, mixed by weights.

    Each set runs through its own epochs, whatever the others do. The concepts of all sets are
    united; their held-out images follow each other, set after set.
    """

    source: Literal["mixture"] = "mixture"
    """Picks a mixture of data sets."""
    mixture: tuple[MixturePart, ...]
    """The data sets. Their order, number and weights fix the order of samples, so do not change
    them within a run."""

    @field_validator("mixture")
    @classmethod
    def _sets_are_named_once(cls, parts: tuple[MixturePart, ...]) -> tuple[MixturePart, ...]:
        if not parts:
            raise ValueError("is empty: give at least one data set, such as {path: data/coco}")
        twice = [path for path, times in Counter(each.path for each in parts).items() if times > 1]
        if twice:
            raise ValueError(f"names {twice[0]} more than once: name it once, with a larger weight")
        return parts


DataConfig = Annotated[
    ShardSource
    | ScenesSource
    | MixtureSource
    | CocoSource
    | MaskFolderSource
    | Sa1bSource
    | LvisSource
    | VisualGenomeSource
    | GritSource
    | RefCocoSource,
    Field(discriminator="source"),
]
