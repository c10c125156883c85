from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment
from small_runs import small_job, write_folder

from tap_platform.recipes.build import build_recipe
from tap_platform.training.compilation import compile_blocks
from tap_platform.training.sliced_checkpoints import SlicedCheckpoints
from tap_platform.training.strategies import build_strategy, is_zero, precision_of

ZERO = ("zero_1", "zero_2", "zero_3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"), count=4)


@pytest.fixture(autouse=True)
def two_workers(monkeypatch):
    monkeypatch.setattr(RayLightningEnvironment, "world_size", lambda self: 2)


def strategy_of(folder, strategy, offload="none", **training):
    scale = {"strategy": strategy, "offload": offload}
    return build_strategy(small_job(folder, scale=scale, training=training), writer="the writer")


def test_ddp_is_the_default(folder):
    strategy = build_strategy(small_job(folder), writer="the writer")
    assert isinstance(strategy, RayDDPStrategy)
    assert not is_zero(strategy)


@pytest.mark.parametrize("name", ["ddp", *ZERO, "fsdp"])
def test_every_strategy_writes_the_same_checkpoints(folder, name):
    strategy = strategy_of(folder, name)
    assert isinstance(strategy, SlicedCheckpoints)
    assert strategy.writer == "the writer"
    assert strategy.restore_checkpoint_after_setup
    assert not strategy.lightning_restore_optimizer


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_field_picks_the_zero_stage(folder, stage):
    strategy = strategy_of(folder, f"zero_{stage}", micro_batch=2)
    assert is_zero(strategy)
    assert strategy.config["zero_optimization"]["stage"] == stage
    assert strategy.config["train_micro_batch_size_per_gpu"] == 2
    assert "offload_optimizer" not in strategy.config["zero_optimization"]


@pytest.mark.parametrize(
    ("strategy", "offload", "keys"),
    [
        ("zero_1", "optimizer", {"offload_optimizer"}),
        ("zero_3", "optimizer", {"offload_optimizer"}),
        ("zero_3", "parameters", {"offload_optimizer", "offload_param"}),
    ],
)
def test_one_field_picks_what_zero_offloads(folder, strategy, offload, keys):
    config = strategy_of(folder, strategy, offload).config
    places = {key: config["zero_optimization"].get(key, {}) for key in keys}
    assert all(place["device"] == "cpu" for place in places.values())
    assert not any(place["pin_memory"] for place in places.values()), "there is no GPU to copy to"
    assert ("offload_param" in config["zero_optimization"]) is ("offload_param" in keys)
    assert config["zero_force_ds_cpu_optimizer"] is False


def test_fsdp_offloads_if_asked(folder):
    for offload in ("none", "parameters"):
        strategy = strategy_of(folder, "fsdp", offload)
        assert isinstance(strategy, ModelParallelStrategy)
        assert strategy.offload is (offload == "parameters")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_zero_computes_in_autocast_with_weights_in_float32(folder, precision):
    job = small_job(folder, scale={"strategy": "zero_2"}, training={"precision": precision})
    config = build_strategy(job, writer=None).config
    assert precision_of(job) == "32-true"
    assert config["torch_autocast"]["enabled"] is (precision == "bf16")
    assert not {"bf16", "fp16"} & set(config)


def test_deepspeed_does_not_average_over_micro_batches_a_second_time(folder):
    strategy = strategy_of(folder, "zero_2")
    engine, loss = Mock(), torch.ones((), requires_grad=True)
    strategy._lightning_module = module = LightningModule()
    module._trainer = SimpleNamespace(strategy=strategy, model=engine)
    strategy.precision_plugin = plugin = DeepSpeedPrecision("32-true")
    plugin.pre_backward = plugin.post_backward = lambda tensor, module: tensor
    strategy.backward(loss, None)
    engine.backward.assert_called_once_with(loss, scale_wrt_gas=False)


def test_compiling_renames_nothing(folder):
    recipe = build_recipe(small_job(folder), torch.eye(3, 64), None)
    names = list(recipe.state_dict())
    compile_blocks(recipe.model)
    assert list(recipe.state_dict()) == names
