"""What every data source shares: the order of its samples, their jitter and their reading."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

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

    located: ClassVar[tuple[str, ...]] = ("path", "shards")

    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the order, of the jitter and of every prompt drawn for a sample."""
    partitions: int = Field(8, gt=0)
    """Canonical sequences that the data set is dealt into, and the most workers that may train: a
    worker takes whole ones, all equally many where their number divides this. It divides the global
    batch, and fixes the order of samples, so that it stays as it is within a run."""
    shuffle_window: int = Field(256, gt=0)
    """Samples shuffled together inside a partition; 1 keeps the order of the shards."""
    regions_per_image: int = Field(64, gt=0)
    """Regions drawn from an image, at most (paper: up to 64 prompts a GPU)."""
    min_region_pixels: int = Field(16, ge=1)
    """Regions with fewer pixels left in the frame are not drawn."""
    jitter: ScaleJitterConfig = ScaleJitterConfig()
    """Scale jitter of training images; evaluation uses none."""
    phrases: Literal["own", "category"] = "own"
    """What describes a region in words. `own`: the phrases of its annotation; a region without any
    teaches no caption. `category`: the name of its category, a weak caption, where it has no
    phrases."""
    reader_tasks: int = Field(1, ge=0)
    """Ray Data tasks that read ahead (and decode, with `decode: ray`) for one worker, one CPU each;
    0 reads in the worker itself."""
    decode: Literal["consumer", "ray"] = "consumer"
    """Who decodes. `consumer`: threads of the worker, straight into the batch; data tasks ship
    encoded bytes, the least CPU time. `ray`: the data tasks, on any node's CPUs, for workers with
    few cores for each GPU; a decoded sample is some six times the bytes. Batches are the same."""
    decode_threads: int = Field(2, gt=0)
    """Threads that decode, or unpack what data tasks have decoded, for one worker."""
    max_bad_fraction: float = Field(0.01, ge=0, le=1)
    """Share of bad samples (quarantined, counted, listed) above which a run stops."""
    bad_sample_grace: int = Field(10, ge=0)
    """Bad samples tolerated before `max_bad_fraction` is looked at."""

    @model_validator(mode="after")
    def _somebody_decodes(self) -> Self:
        if self.decode == "ray" and not self.reader_tasks:
            raise ValueError(
                "decode=ray needs data tasks that decode: make reader_tasks 1 or more, or leave"
                " decode=consumer"
            )
        return self
