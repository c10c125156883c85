"""Every strategy, with all that goes with it, trains what data parallelism trains."""

from __future__ import annotations

import json
import os
import sys
from itertools import product
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from whole_runs import copy_as_cut, losses, records, run_in_workers, starts

from tap_platform.config.load import merge
from tap_platform.launch.train import create_run
from tap_platform.launch.worker_entry import run_worker
from tap_platform.runs.metrics import read_metrics
from tap_platform.training import worker
from tap_platform.training.slices import SlicedState

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

STRATEGIES = ("ddp", "zero_1", "zero_2", "zero_3", "fsdp")
STEPS, HALF = 4, 2
CLIP = 0.5
COMMON = {
    "model": {"drop_path": 0.0, "decoder_dropout": 0.0},
    "data": {"reader_tasks": 0},
    # So large an epsilon leaves AdamW no way to make up for gradients of another size.
    "optimizer": {"lr": 0.1, "epsilon": 1.0, "gradient_clip": CLIP, "ema_decay": 0.5},
    "training": {"max_steps": STEPS, "global_batch": 8, "micro_batch": 2},
    "checkpoint": {"every_steps": HALF, "keep_last": 9},
    "evaluation": {"every_steps": HALF, "images": 4},
}
BF16 = {"training": {"precision": "bf16"}}
RECOMPUTED = {"model": {"activation_checkpointing": True}}
COMPILED = merge(RECOMPUTED, {"training": {"compile": True}})
OPTIMIZER = merge(RECOMPUTED, {"scale": {"offload": "optimizer"}})
PARAMETERS = merge(RECOMPUTED, {"scale": {"offload": "parameters"}})
UNCLIPPED = {"optimizer": {"gradient_clip": None}}

WAYS = {
    **{(strategy, "plain"): {} for strategy in STRATEGIES},
    **{(strategy, "bf16"): BF16 for strategy in STRATEGIES},
    **{(f"zero_{stage}", "optimizer offloaded"): OPTIMIZER for stage in (1, 2, 3)},
    **{(strategy, "all offloaded"): PARAMETERS for strategy in ("zero_3", "fsdp")},
    **{(strategy, "compiled"): COMPILED for strategy in ("ddp", "zero_2", "fsdp")},
    ("ddp", "unclipped"): UNCLIPPED,
}
"""Those that are offloaded or compiled compute activations twice, too."""
SINGLE = [way for way in WAYS if way[1] not in ("bf16", "unclipped")]
HALVES = [way for way in WAYS if way[1] == "bf16"]

TOLERANCE = 2e-4
"""Relative, in float32: gradients are added up in another order."""
HALF_TOLERANCE = 2e-2
"""Relative, in bf16, whose kernels round by how weights lie in memory."""


@pytest.fixture(scope="module")
def runs(make_job):
    """By strategy and way: a run of two workers; all of them in one start of the workers."""
    jobs = {}
    for (strategy, way), own in WAYS.items():
        name = f"{strategy}-{way}".replace("_", "-").replace(" ", "-")
        changes = merge(COMMON, {"scale": {"strategy": strategy, "workers": 2}})
        jobs[strategy, way] = make_job(name, **merge(changes, own))
    made = {key: create_run(job) for key, job in jobs.items()}
    for strategy in STRATEGIES:
        made[strategy, "resumed"] = create_run(jobs[strategy, "plain"])

    def work(config):
        # A pool of compilers takes longer to start than the few kernels take.
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        # ZeRO comes last.
        for (strategy, way), job in sorted(jobs.items()):
            _train(job, made[strategy, way])
            early = "deepspeed" in sys.modules and not strategy.startswith("zero")
            assert not early, f"{strategy} pays for the import of DeepSpeed"
            if way == "plain":
                resumed = made[strategy, "resumed"]
                if dist.get_rank() == 0:
                    copy_as_cut(made[strategy, way], resumed, step=HALF)
                dist.barrier()
                _train(job, resumed)

    run_in_workers(work, 2, jobs["ddp", "plain"].storage)
    return made


def _train(job, run):
    """Train in this worker, and tell of the running statistics of all."""
    recipes = []
    starting_recipe, build_strategy = worker.starting_recipe, worker.build_strategy

    def remember(*args):
        recipes.append(starting_recipe(*args))
        return recipes[-1]

    def build_and_spread(*args):
        strategy = build_strategy(*args)
        if job.scale.strategy == "zero_3":
            # It leaves small parameters whole on every worker, which are all of a tiny model's.
            strategy.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return strategy

    with (
        patch.object(worker, "starting_recipe", remember),
        patch.object(worker, "build_strategy", build_and_spread),
    ):
        run_worker({"job": job.model_dump_json(), "run": str(run.path), "attempt": 1})
    own = {name: b for name, b in recipes[-1].named_buffers() if "running" in name}
    everyone = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own)
    told = {
        "types": sorted({str(b.dtype) for buffers in everyone for b in buffers.values()}),
        "differ": [n for n in own if not torch.equal(everyone[0][n], everyone[1][n])],
        "moved": all(bool(buffer.any()) for buffer in own.values()),
    }
    if dist.get_rank() == 0:
        (run.path / "statistics.json").write_text(json.dumps(told))


def last_state(run):
    return SlicedState(run.checkpoints / f"step-{STEPS}")


def tensors(state):
    kinds = ("weight", "buffer", "exp_avg", "exp_avg_sq", "average")
    return {(kind, name): state.tensor(kind, name) for kind in kinds for name in state.names(kind)}


def held_out(run):
    return [r.values["box_iou"] for r in read_metrics(run.metrics) if r.kind == "val"]


def norms(run):
    return {step: values["gradient_norm"] for step, values in records(run).items()}


@pytest.mark.parametrize("way", SINGLE, ids=" ".join)
def test_every_combination_follows_data_parallelism(runs, way):
    run, expected = runs[way], runs["ddp", "plain"]
    assert set(losses(run)) == set(range(1, STEPS + 1))
    assert losses(run) == pytest.approx(losses(expected), rel=TOLERANCE)
    assert norms(run) == pytest.approx(norms(expected), rel=10 * TOLERANCE)
    assert held_out(run) == pytest.approx(held_out(expected), abs=0.02)
    assert len(held_out(run)) == STEPS // HALF


@pytest.mark.parametrize("way", HALVES, ids=" ".join)
def test_bf16_is_the_same_arithmetic_under_every_strategy(runs, way):
    run, expected = runs[way], runs["ddp", "bf16"]
    assert losses(run) == pytest.approx(losses(expected), rel=HALF_TOLERANCE)
    assert losses(run) != losses(runs[way[0], "plain"])


@pytest.mark.parametrize("way", SINGLE, ids=" ".join)
def test_weights_and_their_averages_are_those_of_data_parallelism(runs, way):
    run, expected = runs[way], tensors(last_state(runs["ddp", "plain"]))
    found = tensors(last_state(run))
    assert set(found) == set(expected)
    for (kind, name), tensor in found.items():
        if kind in ("weight", "average"):
            torch.testing.assert_close(tensor, expected[kind, name], rtol=1e-3, atol=1e-4)
            assert tensor.dtype == torch.float32


def test_averages_are_no_weights(runs):
    state = last_state(runs["ddp", "plain"])
    names = state.names("average")
    assert any(
        not torch.equal(state.tensor("average", name), state.tensor("weight", name))
        for name in names
    )


def test_clipping_is_seen_in_the_losses(runs):
    unclipped = losses(runs["ddp", "unclipped"])
    assert unclipped[1] == losses(runs["ddp", "plain"])[1]
    assert unclipped[STEPS] != pytest.approx(losses(runs["ddp", "plain"])[STEPS], rel=0.05)
    assert all(norm > CLIP for run in runs.values() for norm in norms(run).values())


@pytest.mark.parametrize("way", [*WAYS, *product(STRATEGIES, ["resumed"])], ids=" ".join)
def test_running_statistics_are_the_same_on_all_workers_and_precise(runs, way):
    told = json.loads((runs[way].path / "statistics.json").read_text())
    assert told == {"types": ["torch.float32"], "differ": [], "moved": True}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_interrupted_run_ends_with_the_bits_of_an_unbroken_one(runs, strategy):
    whole, resumed = runs[strategy, "plain"], runs[strategy, "resumed"]
    assert starts(resumed) == [f"step-{HALF}"]
    assert losses(resumed) == losses(whole)
    ends = [tensors(last_state(run)) for run in (whole, resumed)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(tensor, ends[1][key]) for key, tensor in ends[0].items())
