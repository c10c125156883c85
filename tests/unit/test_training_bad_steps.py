"""Steps that are not finite, in a real loop of one worker."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from small_runs import NO_DROPOUT, make_run, small_job, train_here, write_folder

from tap_platform.recipes.tap_pretrain import TapPretrain
from tap_platform.runs.events import read_events
from tap_platform.training import worker
from tap_platform.training.callbacks.bad_steps import SkipBadSteps
from tap_platform.training.divergence import DivergedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"))


class Spy(Callback):
    """The whole state after each step: weights, running statistics and moments."""

    def __init__(self):
        self.states = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step in self.states:
            return
        state = dict(pl_module.state_dict())
        for number, kept in enumerate(trainer.optimizers[0].state.values()):
            state |= {f"{name}{number}": value for name, value in kept.items()}
        self.states[trainer.global_step] = {n: t.clone() for n, t in state.items()}


def poisoned(monkeypatch, steps, poison, accumulation=1):
    """Let the loss of some steps, counted from 1, be poisoned in the first micro-batch."""
    whole = TapPretrain.training_step

    def training_step(self, batch, batch_idx):
        loss = whole(self, batch, batch_idx)
        return (
            poison(loss)
            if batch_idx % accumulation == 0 and self.global_step + 1 in steps
            else loss
        )

    monkeypatch.setattr(TapPretrain, "training_step", training_step)


def spied_on(monkeypatch):
    spy, build = Spy(), worker.build_trainer

    def build_with_spy(*args):
        trainer = build(*args)
        trainer.callbacks.append(spy)
        return trainer

    monkeypatch.setattr(worker, "build_trainer", build_with_spy)
    return spy


def infinite(loss):
    """A loss that is not finite, and whose gradient is."""
    return loss + torch.inf


def undefined(loss):
    return loss * torch.nan


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


@pytest.mark.parametrize(
    ("poison", "word"),
    [(infinite, "loss"), (undefined, "loss"), (_BadGradient.apply, "gradient")],
    ids=["infinite", "undefined", "gradient"],
)
def test_a_bad_step_changes_nothing_and_is_told(poison, word, folder, tmp_path, monkeypatch):
    poisoned(monkeypatch, {2}, poison, accumulation=2)
    spy = spied_on(monkeypatch)
    job = small_job(folder, training={"max_steps": 3, "micro_batch": 2}, model=NO_DROPOUT)
    run = make_run(tmp_path)
    records = train_here(job, run, monkeypatch)
    before, skipped, after = (spy.states[step] for step in (1, 2, 3))
    assert before.keys() == skipped.keys()
    assert [name for name in before if not torch.equal(skipped[name], before[name])] == []
    assert not all(torch.equal(after[name], skipped[name]) for name in after)
    assert [records[step]["skipped_steps"] for step in (1, 2, 3)] == [0, 1, 1]
    assert records[3]["lr"] < records[2]["lr"] < records[1]["lr"]
    (event,) = read_events(run.events, "step_skipped")
    assert (event["step"], event["reason"]) == (2, f"the {word} is not finite")
    assert len(set(event["samples"])) == 4
    assert event["suspects"] == (event["samples"][:2] if word == "loss" else [])


def test_without_bad_steps_every_bit_is_as_without_the_callback(folder, tmp_path, monkeypatch):
    spy = spied_on(monkeypatch)
    job = small_job(folder, training={"max_steps": 3})
    train_here(job, make_run(tmp_path, "with"), monkeypatch)
    states = dict(spy.states)
    for hook in ("on_before_backward", "on_before_optimizer_step"):
        monkeypatch.setattr(SkipBadSteps, hook, lambda *_: None)
    train_here(job, make_run(tmp_path, "without"), monkeypatch)
    for step in (1, 2, 3):
        assert all(torch.equal(spy.states[step][name], t) for name, t in states[step].items())


def test_a_row_of_bad_steps_ends_training_with_their_samples(folder, tmp_path, monkeypatch):
    poisoned(monkeypatch, {1, 3, 4}, undefined)
    job = small_job(folder, training={"max_steps": 9}, health={"skipped_steps": 2})
    run = make_run(tmp_path)
    with pytest.raises(DivergedError, match="up to step 4") as error:
        train_here(job, run, monkeypatch)
    third, fourth = (e["samples"] for e in read_events(run.events, "step_skipped")[1:])
    assert (error.value.step, error.value.samples) == (4, third + fourth)


def test_the_count_goes_on_from_a_checkpoint(folder, tmp_path, monkeypatch):
    poisoned(monkeypatch, {1, 4}, undefined)
    job = small_job(
        folder, training={"max_steps": 4}, checkpoint={"every_steps": 2, "keep_last": 9}
    )
    run = make_run(tmp_path)
    train_here(job, run, monkeypatch)
    records = train_here(job, run, monkeypatch, run.checkpoints / "step-2", start_step=2)
    assert records[4]["skipped_steps"] == 2
