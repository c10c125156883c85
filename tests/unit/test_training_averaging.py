"""The moving average of the weights: its formula, what it skips, and how it goes on."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from sliced_toy import DECAY, HALF, STEPS, Alone, Toy, assert_equal, fit, tensors
from small_runs import make_run, small_job, train_here, write_folder

from tap_platform.launch.weights_source import load_run
from tap_platform.runs.files import write_json
from tap_platform.training.slices import SlicedState
from tap_platform.training.slices.slice import AVERAGE, WEIGHT
from tap_platform.training.slices.torch_layout import TorchLayout
from tap_platform.training.weights import load_model_weights

SKIPPED = 2


class Follow(Callback):
    """The average as it should be; one step loses its gradients, as a bad one does."""

    def __init__(self):
        self.expected = {name: p.detach().clone() for name, p in Toy().named_parameters()}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == SKIPPED:
            optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if ends_step and trainer.global_step != SKIPPED + 1:
            for name, weight in pl_module.named_parameters():
                average = DECAY * self.expected[name] + (1 - DECAY) * weight.detach()
                self.expected[name] = average


def train(folder, steps=STEPS, start=None, save=(STEPS,), **more):
    fit(Alone("cpu"), folder, steps, start, save, **more)
    return folder / f"step-{steps}"


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_average_moves_with_every_step_that_changes_weights(tmp_path, micro_batches):
    follow = Follow()
    steps = STEPS // micro_batches
    options = {"accumulate_grad_batches": micro_batches, "callbacks": [follow]}
    state = SlicedState(train(tmp_path, steps, save=(steps,), **options))
    trained = {name for name, p in Toy().named_parameters() if p.requires_grad}
    assert state.names(AVERAGE) == trained < state.names(WEIGHT)
    for name in trained:
        average = state.tensor(AVERAGE, name)
        torch.testing.assert_close(average, follow.expected[name])
        assert not torch.equal(average, state.tensor(WEIGHT, name))


def test_an_average_that_goes_on_ends_with_the_same_bits(tmp_path):
    whole = train(tmp_path / "whole", save=(HALF, STEPS))
    start = whole.with_name(f"step-{HALF}")
    resumed = train(tmp_path / "resumed", start=start, save=(HALF, STEPS))
    assert_equal(tensors(start), tensors(resumed.with_name(start.name)))
    assert_equal(tensors(whole), tensors(resumed))


def test_a_part_that_is_trained_is_all_that_is_kept(tmp_path):
    start = train(tmp_path / "half", HALF, save=(HALF,), partial=True)
    assert {name for _, name in tensors(start)} == Toy(partial=True).trainable_names()
    resumed = train(tmp_path / "resumed", start=start, partial=True)
    whole = train(tmp_path / "whole", partial=True)
    assert_equal(tensors(whole), tensors(resumed))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    state = SlicedState(train(tmp_path, HALF, save=(HALF,)))
    toy = Toy()
    del toy.rest
    with pytest.raises(ValueError, match=r"2 tensors .* no place for: rest.bias, rest.weight"):
        TorchLayout(toy, toy.configure_optimizers()["optimizer"]).load(state, {})


def test_whoever_wants_the_weights_of_a_run_gets_their_averages(tmp_path, monkeypatch):
    job = small_job(write_folder(tmp_path / "data"), optimizer={"ema_decay": 0.5})
    run = make_run(tmp_path / "runs")
    write_json(run.config, job.model_dump(mode="json"))
    train_here(job, run, monkeypatch)
    last, averaged = (
        load_model_weights(run.checkpoints / "step-4", each) for each in (False, True)
    )
    found = load_run(run.path)
    assert found.origin == f"run {run.name}, step 4, averaged"
    assert all(torch.equal(each, averaged[n]) for n, each in found.model.state_dict().items())
    moved = {name.split(".")[0] for name in last if not torch.equal(last[name], averaged[name])}
    assert moved == set(job.recipe.trained_parts)
