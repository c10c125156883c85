from __future__ import annotations

import math

import pytest
from small_runs import make_run, small_job, train_here, write_folder

from tap_platform.config.health import HealthConfig
from tap_platform.recipes.tap_pretrain import TapPretrain
from tap_platform.runs.events import EventLog, read_events
from tap_platform.training.callbacks.spikes import WatchLoss


def watch(run, losses, **health):
    callback = WatchLoss(HealthConfig(**{"spike_window": 6, **health}), EventLog(run.events))
    for step, loss in enumerate(losses, 1):
        callback._look(step, loss, tells=True)
    return callback


def spikes(run):
    return [(e["step"], e["loss"], e["median"]) for e in read_events(run.events, "loss_spike")]


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


def test_a_spike_is_one_event_and_the_next_one_another(run):
    watch(run, [1, 1, 1, 1, 1, 3.5, 4, 2, 5, 1])
    assert spikes(run) == [(6, 3.5, 1), (9, 5, 1.5)]


def test_a_new_level_is_no_spike_for_ever(run):
    watch(run, [1] * 6 + [10] * 9)
    assert spikes(run) == [(7, 10, 1)]


def test_few_losses_make_no_median_and_those_that_are_not_finite_none_at_all(run):
    watch(run, [1, 9, 1, 9, math.nan, math.inf, 9])
    assert spikes(run) == []


def test_the_window_goes_on_from_a_checkpoint(run):
    saved = watch(run, [1] * 5 + [9]).state_dict()
    resumed = WatchLoss(HealthConfig(), EventLog(run.events))
    resumed.load_state_dict(saved)
    resumed._look(7, 8.0, tells=True)
    assert len(spikes(run)) == 1
    assert all(math.isfinite(loss) for loss in saved["losses"])


def test_the_loss_is_that_of_the_step(run, tmp_path, monkeypatch):
    whole = TapPretrain.step_values

    def step_values(self, sums):
        values = whole(self, sums)
        return {**values, "loss": values["loss"] * (100 if self.global_step + 1 == 14 else 1)}

    monkeypatch.setattr(TapPretrain, "step_values", step_values)
    job = small_job(
        write_folder(tmp_path / "data"),
        training={"max_steps": 16, "log_every": 2, "micro_batch": 2},
    )
    records = train_here(job, run, monkeypatch)
    ((step, loss, _),) = spikes(run)
    assert (step, loss) == (14, pytest.approx(records[14]["loss"]))
