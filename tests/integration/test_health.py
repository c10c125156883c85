"""Hangs and numbers that are no numbers, in real workers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from whole_runs import losses, records, run_in_workers, starts

from tap_platform.launch import workers
from tap_platform.launch.errors import RunFailedError
from tap_platform.launch.going_back import check_not_diverged
from tap_platform.launch.train import create_run, train
from tap_platform.launch.worker_entry import run_worker
from tap_platform.recipes.tap_pretrain import TapPretrain
from tap_platform.runs.events import read_events
from tap_platform.runs.quarantine import quarantined
from tap_platform.training.weights import load_model_weights

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

NO_DROPOUT = {"drop_path": 0.0, "decoder_dropout": 0.0}


def poison(is_bad):
    """Let the loss be undefined where `is_bad(step, batch)`."""

    whole = TapPretrain.training_step

    def training_step(self, batch, batch_idx):
        loss = whole(self, batch, batch_idx)
        return loss * torch.nan if is_bad(self.global_step + 1, batch) else loss

    TapPretrain.training_step = training_step
    return lambda: setattr(TapPretrain, "training_step", whole)


WAYS = {
    "ddp": {},
    "fsdp": {},
    "zero_2": {},
    "zero_3": {},
    "zero_2 in bf16": {"training": {"precision": "bf16"}},
}


@pytest.fixture(scope="module")
def bad_steps(make_job):
    """Runs with a bad step 3, by way; one that goes back, and one that does so in vain.

    One start of the workers does them all.
    """

    def one(name, strategy="ddp", **changes):
        job = make_job(
            name,
            **{
                "model": NO_DROPOUT,
                "scale": {"workers": 2, "strategy": strategy},
                "checkpoint": {"every_steps": 4, "keep_last": 9},
                **changes,
            },
        )
        return job, create_run(job)

    health = {"skipped_steps": 2, "returns": 1}
    runs = {
        name: one(name.replace(" ", "-"), name.split()[0], **changes)
        for name, changes in WAYS.items()
    }
    goes_back = one("goes-back", health=health)
    in_vain = one("in-vain", health=health)

    def work(config):
        rank = torch.distributed.get_rank()

        def carry_out(job, run, is_bad):
            heal = poison(is_bad)
            run_worker({"job": job.model_dump_json(), "attempt": 1, "run": str(run.path)})
            heal()

        for job, run in runs.values():
            carry_out(job, run, lambda step, batch: step == 3 and rank == 1)
        carry_out(*goes_back, lambda step, batch: step in (6, 7) and any(batch.keys))
        carry_out(*in_vain, lambda step, batch: step >= 6)

    run_in_workers(work, 2, next(iter(runs.values()))[0].storage)
    return {name: run for name, (_, run) in runs.items()} | {
        "goes back": goes_back[1],
        "in vain": in_vain[1],
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_bad_on_one_worker_is_skipped_on_all(way, bad_steps):
    run = bad_steps[way]
    found = records(run)
    assert sorted(found) == list(range(1, 13))
    assert [found[step]["skipped_steps"] for step in (2, 3, 4, 12)] == [0, 1, 1, 1]
    (event,) = read_events(run.events, "step_skipped")
    assert (event["rank"], event["step"], event["reason"]) == (0, 3, "the loss is not finite")
    assert len(set(event["samples"])) == 4
    assert event["suspects"] == event["samples"][2:], "those of the second worker"
    # Ours skips a step of DDP, DeepSpeed one of ZeRO: both go on from the same weights.
    tolerance = 5e-2 if "bf16" in way else 2e-4
    expected = losses(bad_steps["ddp"])
    after = {step: loss for step, loss in losses(run).items() if step != 3}
    assert after == pytest.approx({step: expected[step] for step in after}, rel=tolerance)


def test_a_run_goes_back_in_the_same_workers_and_leaves_samples_out(bad_steps):
    run = bad_steps["goes back"]
    bad = [event["samples"] for event in read_events(run.events, "step_skipped")]
    assert len(bad) == 2
    (back,) = read_events(run.events, "returned")
    assert (back["step"], back["to"], back["samples"]) == (7, "step-4", bad[0] + bad[1])
    assert starts(run) == [None, "step-4"]
    left_out = [sample for sample in quarantined(run.events) if "finite" in sample.reason]
    assert {sample.key for sample in left_out} == set(back["samples"])
    found = records(run)
    assert found[7]["skipped_steps"] == 0
    assert found[8]["samples_quarantined"] == len(back["samples"]) == 8
    assert found[6]["regions"] == 0
    assert all(map(torch.isfinite, map(torch.tensor, losses(run).values())))
    check_not_diverged(run, attempt=1)


def test_going_back_in_vain_fails_with_the_samples_listed(bad_steps):
    run = bad_steps["in vain"]
    kinds = [e["kind"] for e in read_events(run.events)]
    assert (kinds.count("returned"), kinds.count("step_skipped"), kinds.count("diverged")) == (
        1,
        4,
        1,
    )
    with pytest.raises(RunFailedError, match=r"(?s)going back 1 times.*events\.jsonl") as error:
        check_not_diverged(run, attempt=1)
    assert read_events(run.events, "diverged")[0]["samples"][0] in str(error.value)
    weights = load_model_weights(run.checkpoints / "step-4")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


@pytest.mark.long
def test_a_hang_names_the_worker_and_the_run_goes_on(make_job, monkeypatch):
    job = make_job(
        "hangs",
        model=NO_DROPOUT,
        scale={"workers": 2, "max_failures": 1},
        checkpoint={"every_steps": 4},
        health={"hang_minutes": 0.1},
    )
    run = create_run(job)
    marker = str(run.path / "hung")

    def run_worker_that_hangs_once(config):
        import ray.train

        from datamodules.stream.region_datamodule import RegionDataModule
        from tap_platform.launch.worker_entry import run_worker

        if ray.train.get_context().get_world_rank() == 1 and not Path(marker).exists():
            Path(marker).touch()
            whole = RegionDataModule.train_dataloader

            def blocking(batches):
                for number, batch in enumerate(batches, 1):
                    if number == 7:
                        threading.Event().wait()
                    yield batch

            RegionDataModule.train_dataloader = lambda self: blocking(whole(self))
        run_worker(config)

    monkeypatch.setattr(workers, "run_worker", run_worker_that_hangs_once)
    train(job, run)
    assert starts(run) == [None, "step-4"]
    assert sorted(losses(run)) == list(range(1, 13))
    told = {event["rank"]: event for event in read_events(run.events, "hang")}
    assert sorted(told) == [0, 1]
    # The batch after the next one is asked for before a step.
    assert {event["step"] for event in told.values()} <= {6, 7}
    culprit, other = told[1], told[0]
    assert (culprit["phase"], culprit["waits_for_others"]) == ("waiting for data", False)
    assert (other["phase"], other["waits_for_others"]) == ("in the step", True)
    assert any("blocking" in frame for frame in culprit["stack"])
    assert any("distributed" in frame for frame in other["stack"])
    assert "worker 1 hangs at step" in run.log(1, 1).read_text()
