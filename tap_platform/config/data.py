"""Where samples come from and how they become batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tap_platform.config.base import Section


class ScaleJitterConfig(Section):
    """Large scale jitter: the long side is resized to the frame times a drawn factor."""

    minimum: float = Field(0.5, gt=0)
    """Smallest factor (paper: 0.5)."""
    maximum: float = Field(2.0, gt=0)
    """Largest factor (paper: 2.0); above 1 a crop of the frame's size is drawn."""
    flip_probability: float = Field(0.0, ge=0, le=1)
    """Share of images mirrored left to right. The paper names no flip, and phrases speak of left
    and right, so none is the default."""


class StreamConfig(Section):
    """What every data source shares."""

    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the order, of the jitter and of every prompt drawn for a sample."""
    partitions: int = Field(8, gt=0)
    """Canonical sequences that the data set is dealt into. The number of workers divides it, and it
    divides the global batch; it fixes the order of samples, so do not change it within a run."""
    shuffle_window: int = Field(256, gt=0)
    """Samples shuffled together inside a partition; 1 keeps the order of the shards."""
    regions_per_image: int = Field(64, gt=0)
    """Regions drawn from an image, at most (paper: up to 64 prompts a GPU)."""
    min_region_pixels: int = Field(16, ge=1)
    """Regions with fewer pixels left in the frame are not drawn."""
    jitter: ScaleJitterConfig = ScaleJitterConfig()
    """Scale jitter of training images; evaluation uses none."""
    reader_tasks: int = Field(1, ge=0)
    """Ray Data tasks that read ahead for one worker, one CPU each; 0 reads in the worker itself."""
    decode_threads: int = Field(2, gt=0)
    """Threads that decode for one worker."""
    max_bad_fraction: float = Field(0.01, ge=0, le=1)
    """Share of bad samples (quarantined, counted, listed) above which a run stops."""
    bad_sample_grace: int = Field(10, ge=0)
    """Bad samples tolerated before `max_bad_fraction` is looked at."""


class ShardSource(StreamConfig):
    """Shards that exist already."""

    source: Literal["shards"] = "shards"
    """Picks shards that exist already."""
    path: str
    """Folder with `train/` and `val/`, each with its tars and an `index.json`."""


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
    scene_seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the scenes themselves."""


class CocoSource(StreamConfig):
    """A COCO-format folder, imported to shards on first use."""

    source: Literal["coco"] = "coco"
    """Picks a COCO-format folder."""
    path: str
    """Folder with `annotations.json` and `images/`, or COCO's own layout."""
    shards: str = "data/coco"
    """Folder that the shards are written to, or found in."""
    priors: Literal["category_names"] = "category_names"
    """Where the concept priors come from. `category_names`: embeddings of the category names, for
    want of a CLIP teacher's weights; they tell what a region is called, not what it looks like."""
    vocabulary: str = "coco_80"
    """Concept list: a name that ships with the platform, or a text file with one name a line."""
    val_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of images held out, chosen by a hash of their id."""


DataConfig = Annotated[ShardSource | ScenesSource | CocoSource, Field(discriminator="source")]
