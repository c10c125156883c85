"""What Ray Train runs in a worker. Light: the data stream starts before torch is imported."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_platform.config.job import JobConfig
from tap_platform.launch.going_back import train_with_returns
from tap_platform.launch.newest_checkpoint import newest_checkpoint
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.status import update_status
from tap_platform.training.termination import Termination

if TYPE_CHECKING:
    from datamodules.stream.sample_stream import EvaluationStream, TrainingStream


@dataclass(frozen=True)
class Place:
    """Where this worker stands in the run."""

    rank: int
    world_size: int
    start_step: int


def run_worker(config: dict[str, Any]) -> None:
    """Read ahead in a thread while Lightning is imported, then train.

    SIGTERM is a preemption from here on, also while there is no trainer yet, or none any more.

    Args:
        config: `job` (resolved JSON), `run` (path of the run directory) and `attempt`.
    """
    with closing(Termination()) as termination:
        _train_all(config, termination)


def _train_all(config: dict[str, Any], termination: Termination) -> None:
    """All lives of this worker's trainer."""
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    job = JobConfig.model_validate_json(config["job"]).on(world_size)
    run = RunDirectory(Path(config["run"]))
    _write_output_to(run.log(config["attempt"], rank))
    print(f"worker {rank} of {world_size} on {socket.gethostname()}, process {os.getpid()}")
    events = EventLog(run.events, attempt=config["attempt"], rank=rank)

    def train(checkpoint: Path | None) -> None:
        place = Place(rank, world_size, _step(checkpoint))
        _train(job, run, events, place, checkpoint, termination)

    train_with_returns(
        job.health,
        events,
        newest=lambda: newest_checkpoint(job, run, events, agree=broadcast_from_rank_zero),
        train=train,
    )


def _train(
    job: JobConfig,
    run: RunDirectory,
    events: EventLog,
    place: Place,
    checkpoint: Path | None,
    termination: Termination,
) -> None:
    """One life of data stream, model and trainer, from a checkpoint on."""
    from datamodules.stream.prefetch import Prefetch

    stream, held_out = build_streams(job, place, events)
    training = Prefetch(stream, depth=2)
    try:
        from tap_platform.launch.data_sets import vocabulary_of
        from tap_platform.training.lean_imports import without_extras

        with without_extras():
            from torch.cuda import is_available as has_gpu

            from datamodules.stream.region_datamodule import RegionDataModule
            from tap_platform.training.worker import train_worker

        datamodule = RegionDataModule(
            vocabulary_of(job.data), stream.plan, training, held_out, place.start_step
        )
        if place.rank == 0:
            gpus = place.world_size if has_gpu() else 0
            tell_start(run, events, place.world_size, checkpoint, gpus)
        train_worker(job, run, events, datamodule, checkpoint, termination)
    finally:
        training.close()


def tell_start(
    run: RunDirectory,
    events: EventLog,
    workers: int,
    checkpoint: Path | None,
    gpus: int | None = None,
) -> None:
    """Record a start of the workers.

    Args:
        run: the run.
        events: where to.
        workers: how many they are.
        checkpoint: what they go on from; None for the start.
        gpus: of all workers together; None where that is not known.
    """
    starts = read_events(run.events, kind="training")
    was = starts[-1].get("workers") if starts else None
    goes_on_from = checkpoint.name if checkpoint else None
    events.record(
        "training", pid=os.getpid(), workers=workers, gpus=gpus, goes_on_from=goes_on_from
    )
    if was not in (None, workers):
        events.record("resized", was=was, now=workers)
    update_status(run.status, world_size=workers)


def build_streams(
    job: JobConfig, place: Place, events: EventLog
) -> tuple[TrainingStream, EvaluationStream | None]:
    """This worker's training batches from its first step on, and its held-out ones."""
    from datamodules.decoding.decode import Frame
    from datamodules.stream.decoder import Decoder
    from datamodules.stream.quarantine import Quarantine
    from datamodules.stream.sample_stream import EvaluationStream, TrainingStream
    from tap_platform.launch.data_sets import (
        held_out_index,
        training_index,
        training_plan,
        vocabulary_of,
    )
    from tap_platform.runs.quarantine import recorder
    from tap_platform.training.divergence import left_out

    data = job.data
    concepts = vocabulary_of(data).indexes

    def decoder(training: bool) -> Decoder:
        quarantine = Quarantine(
            data.max_bad_fraction,
            data.bad_sample_grace,
            on_bad=recorder(events, "train" if training else "val"),
            left_out=left_out(events.path) if training else frozenset(),
        )
        return Decoder(data, Frame.of(job.model), concepts, quarantine, training=training)

    index = training_index(data)
    stream = TrainingStream(
        index,
        training_plan(job, index),
        decoder(training=True),
        rank=place.rank,
        world_size=place.world_size,
        accumulation=job.accumulation,
        steps=range(place.start_step, job.training.max_steps),
    )
    if job.evaluation.every_steps is None:
        return stream, None
    held_out = EvaluationStream(
        held_out_index(data),
        decoder(training=False),
        batch=job.micro_batch,
        images=job.evaluation.images,
        rank=place.rank,
        world_size=place.world_size,
    )
    return stream, held_out


def _step(checkpoint: Path | None) -> int:
    from tap_platform.runs.checkpoints import step_of

    return step_of(checkpoint) if checkpoint else 0


def _write_output_to(path: Path) -> None:
    """Send everything that this process prints to its log in the run directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
