"""Fine-tuning through the whole stack: a part of the model first, then all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from whole_runs import copy_as_cut, losses, records, run_in_workers, starts

from tap_platform.launch.train import create_run
from tap_platform.launch.weights_source import load_run
from tap_platform.launch.worker_entry import run_worker
from tap_platform.runs.directory import RunDirectory
from tap_platform.training.base_weights import whole_weights
from tap_platform.training.weights import load_model_weights

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

STEPS = {"training": {"max_steps": 10}, "checkpoint": {"every_steps": 4, "keep_last": 5}}
END = "step-10"


def two(strategy="ddp", **scale):
    return {"scale": {"workers": 2, "strategy": strategy, **scale}, **STEPS}


def captions(base, train="text_decoder"):
    recipe = {"type": "tap_caption", "train": train, "tokenizer": "trained"}
    return {"recipe": recipe, "init_from": base}


@pytest.fixture(scope="module")
def tuned(make_job):
    """Runs by name: pre-training, then the text decoder in three ways, then everything.

    Pre-training is sharded, so that every later run starts from what its workers left in parts. One
    start of the workers does them all; `zero-cut` goes on from what a crash had left of `zero`.
    """
    jobs = [
        make_job("base", **two("zero_1")),
        make_job("part", **two(), **captions("base")),
        make_job("zero", **two("zero_2"), **captions("base")),
        make_job("zero-cut", **two("zero_2"), **captions("base")),
        make_job("full", **two(), **captions("part", train="all")),
    ]
    runs = {job.name: RunDirectory(Path(job.storage) / job.project / job.name) for job in jobs}

    def work(config):
        for job in jobs:
            run = runs[job.name]
            if dist.get_rank() == 0:
                create_run(job, job.name)
                if job.name == "zero-cut":
                    copy_as_cut(runs["zero"], run, step=4)
            dist.barrier()
            run_worker({"job": job.model_dump_json(), "run": str(run.path), "attempt": 1})
            dist.barrier()

    run_in_workers(work, 2, jobs[0].storage)
    return runs


def end_of(run):
    return whole_weights(run.checkpoints / END)


def changed_parts(run, base):
    end, start = end_of(run), end_of(base)
    assert set(end) == set(start)
    return {name.split(".")[0] for name in end if not torch.equal(end[name], start[name])}


@pytest.mark.parametrize("name", ["part", "zero", "zero-cut"])
def test_the_text_decoder_learns_alone_and_is_kept_alone(name, tuned):
    run = tuned[name]
    assert changed_parts(run, tuned["base"]) == {"text_decoder"}
    parameters = dict(load_run(run.path).model.named_parameters())
    kept = {name for name in load_model_weights(run.checkpoints / END) if name in parameters}
    assert kept == {name for name in parameters if name.startswith("text_decoder.")}
    assert records(run)[10]["caption"] < records(run)[1]["caption"]


def test_zero_goes_on_from_a_part_with_equal_bits(tuned):
    whole, cut = tuned["zero"], tuned["zero-cut"]
    assert starts(cut) == ["step-4"]
    assert losses(cut) == losses(whole)
    ends = end_of(whole), end_of(cut)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_everything_is_tuned_from_a_part_and_its_base(tuned):
    parts = {"image_encoder", "prompt_encoder", "image_decoder", "text_decoder"}
    assert changed_parts(tuned["full"], tuned["part"]) == parts
