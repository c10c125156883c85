"""What Ray Train runs in a worker. Light: the data stream starts before torch is imported."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_platform.config.job import JobConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog

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

    Args:
        config: `job` (resolved JSON), `run` (path of the run directory) and `attempt`.
    """
    import ray.train

    job = JobConfig.model_validate_json(config["job"])
    run = RunDirectory(Path(config["run"]))
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    _write_output_to(run.log(config["attempt"], rank))
    events = EventLog(run.events, attempt=config["attempt"], rank=rank)
    checkpoint = _newest_checkpoint(run, events)
    place = Place(rank, world_size, _step(checkpoint))

    from datamodules.stream.prefetch import Prefetch

    stream, held_out = build_streams(job, place, events)
    training = Prefetch(stream, depth=2)
    try:
        from datamodules.stream.region_datamodule import RegionDataModule
        from tap_platform.launch.data_sets import vocabulary_of
        from tap_platform.training.worker import train_worker

        datamodule = RegionDataModule(
            vocabulary_of(job.data), stream.plan, training, held_out, place.start_step
        )
        train_worker(job, run, events, datamodule, checkpoint)
    finally:
        training.close()


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

    data = job.data
    concepts = vocabulary_of(data).indexes

    def decoder(training: bool) -> Decoder:
        quarantine = Quarantine(
            data.max_bad_fraction,
            data.bad_sample_grace,
            on_bad=recorder(events, "train" if training else "val"),
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


def _newest_checkpoint(run: RunDirectory, events: EventLog) -> Path | None:
    """The newest sound checkpoint; the first worker tells of those that are not."""
    from tap_platform.runs import checkpoints

    def tell(folder: Path, reason: str) -> None:
        print(f"checkpoint {folder.name} is skipped: {reason}")
        if events.rank == 0:
            events.record("checkpoint_skipped", checkpoint=folder.name, reason=reason)

    return checkpoints.latest(run.checkpoints, on_skipped=tell)


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
