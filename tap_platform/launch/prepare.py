"""Make a job's data set ready, before anything is scheduled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.order.plan import GlobalPlan
from datamodules.shards.index import DataIndex
from datamodules.vocabulary import Vocabulary
from tap_platform.config.data import CocoSource, DataConfig, ScenesSource
from tap_platform.config.job import JobConfig


def data_folder(source: DataConfig) -> Path:
    """Where a source's shards lie, or will lie."""
    return Path(source.shards if isinstance(source, CocoSource) else source.path)


def prepare_data(source: DataConfig, dim: int, console: Console | None = None) -> Path:
    """Make or import the shards of a source if they are not there; show how far it is.

    Args:
        source: the data section of a job.
        dim: width of the concept space.
        console: where to show it.

    Raises:
        ValueError: if the source is missing, empty or broken, or the folder cannot be written.
    """
    console = console or Console()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(f"preparing {source.source}", total=None)
        story = _make(source, dim, lambda done, of: bar.update(task, completed=done, total=of))
    if story:
        console.print(story, soft_wrap=True)
    return data_folder(source)


def _make(source: DataConfig, dim: int, show: Callable[[int, int], None]) -> str:
    """Make the shards; tell what was made, or nothing if they were there."""
    folder = data_folder(source)
    is_new = not (folder / "dataset.json").exists()
    if isinstance(source, ScenesSource):
        from datamodules.scenes import make_scenes

        make_scenes(source, dim, show)
        scenes = f"{source.train_scenes} scenes to learn from, {source.val_scenes} held out"
        return f"made {scenes}, in {folder}" if is_new else ""
    if isinstance(source, CocoSource):
        from datamodules.importers.coco import import_coco
        from datamodules.vocabulary import concept_list

        names = concept_list(source.vocabulary)
        vocabulary = Vocabulary.from_names(names, dim, kind=source.priors)
        report = import_coco(source.path, source.shards, vocabulary, source.val_fraction, show)
        return f"{report.sentence()}, in {folder}" if is_new else ""
    return ""


def check_data(job: JobConfig) -> None:
    """Refuse a data set that the job cannot train on, before anything is scheduled.

    Raises:
        ValueError: if shards, index or vocabulary are missing, the set is empty or too small for
            the batch, the workers cannot share it, or the concept space has another width.
    """
    folder = data_folder(job.data)
    plan = training_plan(job, DataIndex.load(folder / "train").counts)
    plan.check_world_size(job.scale.workers)
    held_out = DataIndex.load(folder / "val")
    if not len(held_out):
        raise ValueError(f"{folder / 'val'} holds no sample: hold some images out for evaluation")
    vocabulary = Vocabulary.load(folder / "vocabulary.safetensors")
    width = vocabulary.embeddings.shape[1]
    if width != job.model.concept_dim:
        raise ValueError(
            f"{folder} has priors and concepts of width {width}, the model's concept_dim is"
            f" {job.model.concept_dim}: make the data set anew, or set model.concept_dim={width}"
        )


def training_plan(job: JobConfig, counts: NDArray[np.int64]) -> GlobalPlan:
    """The order of a job's training samples, from the sample counts of its shards."""
    return GlobalPlan(
        counts,
        seed=job.data.seed,
        partitions=job.data.partitions,
        shuffle_window=job.data.shuffle_window,
        global_batch=job.training.global_batch,
    )
