"""Make a job's data set ready, before anything is scheduled."""

from __future__ import annotations

from contextlib import nullcontext

from rich.console import Console

from datamodules.shards.provenance import CARD_NAME
from datamodules.storage import exists
from tap_platform.config.data import DataConfig, MixtureSource, ScenesSource, ShardSource
from tap_platform.config.job import JobConfig
from tap_platform.launch.count_bar import Show, count_bar
from tap_platform.launch.data_sets import (
    data_folder,
    data_sets,
    held_out_index,
    training_index,
    training_plan,
    vocabulary_of,
)
from tap_platform.launch.targets import check_targets


def prepare_data(
    source: DataConfig, dim: int, console: Console | None = None, mend: bool = False
) -> None:
    """Make or import the shards of a source if they are not there; show how far it is.

    Args:
        source: the data section of a job.
        dim: width of the concept space.
        console: where to tell what was made.
        mend: import faulty images again whose files have changed since the import.

    Raises:
        ValueError: if the source is missing, empty or broken, or the folder cannot be written.
    """
    with count_bar(f"preparing {source.source}") as show:
        story = _make(source, dim, show, mend)
    if story:
        (console or Console()).print(story, soft_wrap=True)


def _make(source: DataConfig, dim: int, show: Show, mend: bool) -> str:
    """Make the shards; tell what was made, or nothing if they were there."""
    if isinstance(source, ShardSource | MixtureSource):
        return ""
    folder = data_folder(source)
    is_new = not exists(folder / CARD_NAME)
    if isinstance(source, ScenesSource):
        from datamodules.scenes import make_scenes

        make_scenes(source, dim, show)
        scenes = f"{source.train_scenes} scenes to learn from, {source.val_scenes} held out"
        return f"made {scenes}, in {folder}" if is_new else ""
    from datamodules.importers.registry import import_source
    from tap_platform.launch.ray_session import joined_ray

    workers = source.import_workers
    with joined_ray(workers) if workers else nullcontext():
        report = import_source(source, dim, show, mend)
    return f"{report.sentence()}, in {folder}" if is_new or mend else ""


def check_data(job: JobConfig, console: Console | None = None) -> None:
    """Refuse data that the job cannot train on, before anything is scheduled.

    Args:
        job: the whole job.
        console: where to tell what is no fault, but good to know.

    Raises:
        ValueError: if shards, index or vocabulary are missing, the set is empty or too small for
            the batch or the workers, the concept space has another width, the sets of
            a mixture do not fit together, or they do not hold what the recipe learns.
    """
    check_targets(job, console or Console())
    plan = training_plan(job, training_index(job.data))
    plan.check_world_size(job.scale.most_workers)
    folders = [each.folder for each in data_sets(job.data)]
    if not len(held_out_index(job.data)):
        empty = ", ".join(str(folder / "val") for folder in folders)
        raise ValueError(f"{empty} holds no sample: hold some images out for evaluation")
    width = vocabulary_of(job.data).embeddings.shape[1]
    if width != job.model.concept_dim:
        raise ValueError(
            f"{', '.join(map(str, folders))}: priors and concepts of width {width}, the model's"
            f" concept_dim is {job.model.concept_dim}: make the data set anew, or set"
            f" model.concept_dim={width}"
        )
