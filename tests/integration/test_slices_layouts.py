"""Every strategy writes the same checkpoint, and goes on from that of any other."""

from __future__ import annotations

import json
import os
import socket
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from sliced_toy import HALF, KINDS, STEPS, Toy, assert_equal, fit, tensors

from tap_platform.training.sliced_checkpoints import SlicedCheckpoints
from tap_platform.training.slices import SlicedState
from tap_platform.training.slices.slice import AVERAGE, BUFFER, MOMENTS, WEIGHT
from tap_platform.training.slices.zero_layout import ZeroLayout
from tap_platform.training.strategies.zero import ZeroStrategy

SHARDED = ("zero_1", "zero_2", "zero_3", "zero_2_offloaded", "zero_3_offloaded", "fsdp")
STRATEGIES = ("ddp", *SHARDED)


class Ddp(SlicedCheckpoints, DDPStrategy):
    pass


class Zero(ZeroStrategy):
    """Without Ray Train, which tells the device otherwise."""

    root_device = torch.device("cpu", 0)


class Fsdp(SlicedCheckpoints, ModelParallelStrategy):
    pass


def make_strategy(name):
    environment = {"cluster_environment": TorchElasticEnvironment()}
    if name == "ddp":
        return Ddp(**environment)
    if name == "fsdp":
        strategy = Fsdp(data_parallel_size=2, tensor_parallel_size=1)
        strategy.cluster_environment = TorchElasticEnvironment()
        return strategy
    strategy = Zero(
        **environment,
        stage=int(name[5]),
        offload_optimizer="offloaded" in name,
        offload_parameters=name == "zero_3_offloaded",
        pin_memory=False,
        logging_batch_size_per_gpu=2,
    )
    strategy.config["zero_force_ds_cpu_optimizer"] = False
    return strategy


def train(name, folder, steps=STEPS, start=None, **how):
    place = dist.get_rank(), dist.get_world_size()
    fit(make_strategy(name), folder, steps, start, place=place, **how)


def work(rank, folder, port):
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {**place, "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
    dist.init_process_group("gloo")
    for name in STRATEGIES:
        whole = folder / "whole" / name
        train(name, whole, save=(HALF, STEPS))
        train(name, folder / "resumed" / name, start=whole / f"step-{HALF}")
    train("zero_2", folder / "partial", HALF, save=(HALF,), partial=True)
    before = folder / "whole/ddp" / f"step-{HALF}"
    for name in (*SHARDED, "ddp"):
        train(name, folder / "moved" / name, start=before, save=(HALF, STEPS))
        before = folder / "moved" / name / f"step-{HALF}"
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What two workers have trained: whole runs, resumed ones, and one that changes strategies."""
    folder = tmp_path_factory.mktemp("trained")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (folder, port), nprocs=2)
    return folder


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_that_goes_on_ends_with_the_bits_of_an_unbroken_one(trained, name):
    ends = [tensors(trained / kind / name / f"step-{STEPS}") for kind in ("whole", "resumed")]
    assert_equal(*ends)
    assert_not_still(trained / "whole" / name)


def assert_not_still(run):
    half, end = (tensors(run / f"step-{step}") for step in (HALF, STEPS))
    moved = {kind for kind, name in half if not torch.equal(half[kind, name], end[kind, name])}
    assert moved == set(KINDS)


def test_a_checkpoint_holds_everything_once(trained):
    model = Toy()
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    parameters = {name for name, _ in model.named_parameters()}
    trained_names = {name for name in parameters if not name.startswith("rest.")}
    for name in STRATEGIES:
        state = SlicedState(trained / "whole" / name / f"step-{STEPS}")
        assert state.names(WEIGHT) == parameters
        assert state.names(BUFFER) == set(expected) - parameters
        assert all(state.names(kind) == trained_names for kind in (*MOMENTS, AVERAGE))
        found = tensors(state.folder)
        assert all(tensor.shape == expected[name] for (_, name), tensor in found.items())
        assert found[BUFFER, "norm.num_batches_tracked"] == STEPS


@pytest.mark.parametrize(("one", "other"), pairwise(("ddp", *SHARDED)))
def test_every_strategy_takes_and_gives_the_same_state(trained, one, other):
    before = trained / ("whole" if one == "ddp" else "moved") / one / f"step-{HALF}"
    assert_equal(tensors(before), tensors(trained / "moved" / other / f"step-{HALF}"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_that_changes_its_strategy_learns_the_same(trained, name):
    ends = [trained / "moved" / name, trained / "whole/ddp"]
    moved, whole = (tensors(folder / f"step-{STEPS}") for folder in ends)
    for key, tensor in whole.items():
        torch.testing.assert_close(moved[key], tensor, rtol=1e-4, atol=1e-5, msg=str(key))


def test_a_part_that_is_trained_is_all_that_is_kept(trained):
    kept = {name for _, name in tensors(trained / "partial" / f"step-{HALF}")}
    assert kept == Toy(partial=True).trainable_names()


def zero_layout():
    """DeepSpeed's counts as fp16 has them, which needs a GPU."""
    scaler = DynamicLossScaler(2.0**16, 1000, 1.0, delayed_shift=2, consecutive_hysteresis=False)
    engine = SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler), skipped_steps=0)
    engine.train_batch_size, engine.gradient_accumulation_steps = (lambda: 8), (lambda: 2)
    return ZeroLayout(Toy(), engine), scaler, engine


def test_the_loss_scale_of_fp16_goes_on():
    layout, scaler, engine = zero_layout()
    scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = 2.0**13, 7, 5
    scaler.cur_hysteresis, engine.skipped_steps = 1, 3
    other, resumed, resumed_engine = zero_layout()
    other.set_counters(json.loads(json.dumps(layout.counters())), step=7)
    assert vars(resumed) == vars(scaler)
    assert (resumed_engine.skipped_steps, resumed_engine.micro_steps) == (3, 14)
    other.set_counters({}, step=9)  # a checkpoint of a strategy without a scale
    assert vars(resumed) == vars(scaler)
    assert (resumed_engine.skipped_steps, resumed_engine.global_samples) == (0, 72)
