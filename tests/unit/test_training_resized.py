"""A run goes on from a checkpoint of other micro-batches, or with more steps to do."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_runs import NO_DROPOUT, make_run, small_job, train_here, write_folder

from tap_platform.runs.metrics import read_metrics
from tap_platform.training.callbacks.seed_steps import SeedSteps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"))


def job_of(folder, micro_batch, max_steps=7, model=NO_DROPOUT):
    return small_job(
        folder,
        model=model,
        training={"max_steps": max_steps, "micro_batch": micro_batch},
        schedule={"final_factor": 1.0},
        checkpoint={"every_steps": 3, "keep_last": 9},
        evaluation={"every_steps": 2, "images": 4},
    )


def test_other_micro_batches_go_on_with_the_same_steps(folder, tmp_path, monkeypatch):
    whole, resumed = make_run(tmp_path, "whole"), make_run(tmp_path, "resumed")
    expected = train_here(job_of(folder, micro_batch=2), whole, monkeypatch)
    # Three steps of two micro-batches are no multiple of four.
    place = whole.checkpoints / "step-3"
    tail = train_here(job_of(folder, 1), resumed, monkeypatch, place, start_step=3)
    assert set(tail) == {4, 5, 6, 7}
    for step, values in tail.items():
        assert values["regions"] == expected[step]["regions"]
        assert values["lr"] == expected[step]["lr"]
        # Batch norm sees one image at a time instead of two.
        assert values["loss"] == pytest.approx(expected[step]["loss"], rel=0.2)
    held_out = [r.step for r in read_metrics(resumed.metrics) if r.kind == "val"]
    assert held_out == [4, 6]


def test_a_finished_run_goes_on_for_more_steps_with_its_own_draws(folder, tmp_path, monkeypatch):
    whole, short, longer = (make_run(tmp_path, name) for name in ("whole", "short", "longer"))
    job, fewer = (job_of(folder, 2, max_steps, model={}) for max_steps in (7, 5))
    expected = train_here(job, whole, monkeypatch)
    train_here(fewer, short, monkeypatch)
    tail = train_here(job, longer, monkeypatch, short.checkpoints / "step-5", start_step=5)
    losses, wanted = ({n: values["loss"] for n, values in r.items()} for r in (tail, expected))
    assert losses == {6: wanted[6], 7: wanted[7]}


def test_every_generator_draws_by_the_step():
    def draws(micro_batch):
        trainer = SimpleNamespace(global_rank=1)
        SeedSteps(2**40).on_train_batch_start(trainer, None, None, micro_batch)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    first, second = draws(3), draws(4)
    assert draws(3) == first
    assert all(one != other for one, other in zip(first, second, strict=True))
