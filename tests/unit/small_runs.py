"""A data set of few samples and trainings of few steps, all in this process, for unit tests."""

import dataclasses
from contextlib import closing

import numpy as np
from data_samples import box_mask, region, sample
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny_model import MODEL

from datamodules.shards.writer import ShardWriter
from datamodules.stream.prefetch import Prefetch
from datamodules.stream.region_datamodule import RegionDataModule
from datamodules.vocabulary import Vocabulary
from tap_platform.config.load import merge, validate_job
from tap_platform.launch.data_sets import vocabulary_of
from tap_platform.launch.worker_entry import Place, build_streams
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.metrics import read_metrics
from tap_platform.training import worker
from tap_platform.training.sliced_checkpoints import SlicedCheckpoints
from tap_platform.training.termination import Termination

NO_DROPOUT = {"drop_path": 0.0, "decoder_dropout": 0.0}
NAMES = ("cat", "dog", "bird")
DIM = 64


def make_sample(number):
    """One to four regions of 48 x 64 pixels, with priors."""
    boxes = [(4, 6, 30, 40), (20, 10, 60, 30), (0, 0, 24, 24), (30, 20, 64, 48)]
    regions = [
        region(box_mask(48, 64, *box), NAMES[place % 3])
        for place, box in enumerate(boxes[: 1 + number % 4])
    ]
    made = sample(f"key{number:02}", regions, seed=number)
    priors = np.random.default_rng(number).normal(size=(len(regions), DIM)).astype(np.float16)
    return dataclasses.replace(made, priors=priors)


def write_folder(folder, count=26, samples_per_shard=7, first=0):
    with ShardWriter(folder / "train", samples_per_shard) as writer:
        for number in range(first, first + count):
            writer.write(make_sample(number))
    with ShardWriter(folder / "val", 4) as writer:
        for number in range(4):
            writer.write(make_sample(100 + number))
    Vocabulary.from_names(NAMES, DIM, kind="test").save(folder / "vocabulary.safetensors")
    return folder


def small_job(folder, **changes):
    """A job that reads in this process; keyword sections are laid over it."""
    tree = {
        "name": "small",
        "model": MODEL,
        "data": {
            "source": "shards",
            "path": str(folder),
            "partitions": 4,
            "regions_per_image": 4,
            "min_region_pixels": 1,
            "shuffle_window": 4,
            "reader_tasks": 0,
        },
        "training": {"max_steps": 4, "global_batch": 4, "log_every": 1},
        "scale": {"device": "cpu"},
    }
    return validate_job(merge(tree, changes), where="small")


def events_of(run, rank=0):
    return EventLog(run.events, attempt=1, rank=rank)


def make_run(folder, name="run"):
    return RunDirectory.create(folder, "tap", name)


def batches_of(job, events, rank=0, world_size=1, start_step=0):
    """Every training batch of a rank from a step on."""
    stream, _ = build_streams(job, Place(rank, world_size, start_step), events)
    return list(stream)


def datamodule(job, run, start_step=0):
    stream, held_out = build_streams(job, Place(0, 1, start_step), events_of(run))
    training = Prefetch(stream, depth=2)
    return RegionDataModule(vocabulary_of(job.data), stream.plan, training, held_out, start_step)


class OneWorker(SlicedCheckpoints, SingleDeviceStrategy):
    """A worker alone, on the CPU."""

    def __init__(self, writer):
        super().__init__("cpu")
        self.writer = writer


def train_here(job, run, monkeypatch, checkpoint=None, start_step=0):
    """The worker's own loop, without Ray Train's process group around it."""
    monkeypatch.setattr(worker, "build_strategy", lambda job, writer: OneWorker(writer))
    data = datamodule(job, run, start_step)
    with closing(Termination()) as termination:
        worker.train_worker(job, run, events_of(run), data, checkpoint, termination)
    return {r.step: r.values for r in read_metrics(run.metrics) if r.kind == "train"}
