"""Going back to a checkpoint after bad steps, with workers that are functions."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import batches_of, make_run, small_job, write_folder

from tap_platform.config.health import HealthConfig
from tap_platform.launch.errors import RunFailedError
from tap_platform.launch.going_back import check_not_diverged, train_with_returns
from tap_platform.report.story import story_of
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.quarantine import quarantined
from tap_platform.training.divergence import DivergedError, left_out


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


def carry_out(run, errors, returns=2, attempt=1):
    """Train as often as there are errors, and once more if that is allowed; what it starts from."""
    newest = iter([None, Path("step-4"), Path("step-8"), None])
    starts, left = [], list(errors)

    def train(checkpoint):
        starts.append(checkpoint.name if checkpoint else None)
        if left:
            raise left.pop(0)

    events = EventLog(run.events, attempt, rank=0)
    train_with_returns(HealthConfig(returns=returns), events, lambda: next(newest), train)
    return starts


def test_a_run_that_does_not_diverge_trains_once(run):
    assert carry_out(run, []) == [None]
    assert read_events(run.events) == []
    check_not_diverged(run, attempt=1)


def test_it_goes_back_to_the_newest_checkpoint_without_the_samples(run):
    errors = [DivergedError(6, ["a", "b"]), DivergedError(9, ["c"])]
    assert carry_out(run, errors) == [None, "step-4", "step-8"]
    found = [(e["step"], e["to"]) for e in read_events(run.events, "returned")]
    assert found == [(6, "step-4"), (9, "step-8")]
    assert left_out(run.events) == {"a", "b", "c"}
    check_not_diverged(run, attempt=1)


def test_after_so_many_times_it_ends_without_an_error_for_ray_to_retry(run):
    errors = [DivergedError(step, [f"key{step}-{n}" for n in range(7)]) for step in (6, 9)]
    assert carry_out(run, errors, returns=1) == [None, "step-4"]
    with pytest.raises(RunFailedError, match=r"up to step 9 .*going back 1 times") as error:
        check_not_diverged(run, attempt=1)
    assert "key9-4 and 2 more" in str(error.value)
    assert str(run.events) in str(error.value)
    check_not_diverged(run, attempt=2)
    told = [happening.what for happening in story_of(read_events(run.events))]
    assert told[0] == "went back from step 6 to step-4, and left out 7 samples"


def test_workers_that_ray_has_restarted_have_gone_back_before(run):
    carry_out(run, [DivergedError(6, ["a"])], returns=1)
    assert carry_out(run, [DivergedError(6, ["b"])], returns=1) == [None]
    assert carry_out(run, [DivergedError(6, ["b"])], returns=1, attempt=2) == [None, "step-4"]


def test_samples_that_are_left_out_are_bad_ones_of_training(run, tmp_path):
    strict = {"bad_sample_grace": 0, "max_bad_fraction": 0.0}
    job = small_job(write_folder(tmp_path / "data"), data=strict, training={"max_steps": 3})
    events = EventLog(run.events, 1, rank=0)
    whole = [batch.keys for batch in batches_of(job, events)]
    events.record("returned", step=2, to=None, samples=whole[1][:2])
    assert [batch.keys for batch in batches_of(job, events)] == [whole[0], whole[1][2:], whole[2]]
    bad = quarantined(run.events)
    assert [(each.split, each.key) for each in bad] == [("train", key) for key in whole[1][:2]]
    assert {each.reason for each in bad} == {"made the loss not finite"}
    assert all(each.shard for each in bad)
