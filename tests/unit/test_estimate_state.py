from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tap_platform.config.load import load_job
from tap_platform.config.model import PRESETS
from tap_platform.estimate.checkpoint_size import checkpoint_size
from tap_platform.estimate.communication import sent_bytes
from tap_platform.estimate.state import held_state, model_size
from tap_platform.launch.plan import make_plan, print_plan
from tap_platform.models import Tap

ROOT = Path(__file__).resolve().parents[2]


def job(*overrides, name="tap_vit_l"):
    return load_job(ROOT / f"jobs/{name}.yaml", overrides)


@pytest.mark.parametrize("preset", PRESETS)
def test_blocks_are_counted_as_the_modules_hold_them(preset):
    with torch.device("meta"):
        model = Tap(job(f"model.preset={preset}").model)
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.image_encoder.blocks]
    size = model_size(job(f"model.preset={preset}"))
    assert {size.block} == set(blocks)
    assert size.blocks == sum(blocks)
    assert size.whole == sum(p.numel() for p in model.parameters())


def test_a_replicated_float32_adamw_takes_sixteen_bytes_a_parameter():
    whole = job("scale.strategy=ddp", "recipe.type=tap_caption", "recipe.train=all")
    state, size = held_state(whole), model_size(whole)
    assert size.resting == 0
    assert sum(state) == 16 * size.trained


def test_precision_changes_nothing_of_the_state():
    assert held_state(job("training.precision=fp32")) == held_state(job("training.precision=bf16"))


@pytest.mark.parametrize(
    ("strategy", "offload", "weights", "gradients", "optimizer", "host"),
    [
        ("ddp", "none", 4, 4, 8, 0),
        ("zero_1", "none", 4, 0, 12 / 256, 0),
        ("zero_2", "none", 4, 0, 12 / 256, 0),
        ("zero_3", "none", 4 / 256, 4 / 256, 12 / 256, 0),
        ("fsdp", "none", 4 / 256, 0, 8 / 256, 0),
        ("zero_2", "optimizer", 4, 0, 0, 20 / 256),
        ("zero_3", "optimizer", 4 / 256, 0, 0, 16 / 256),
        ("fsdp", "parameters", 0, 0, 0, 16 / 256),
    ],
)
def test_every_strategy_holds_its_share(strategy, offload, weights, gradients, optimizer, host):
    everything = ["recipe.type=tap_caption", "recipe.train=all", "init_from=some-run"]
    changed = job(f"scale.strategy={strategy}", f"scale.offload={offload}", *everything)
    count = model_size(changed).trained
    state = held_state(changed)
    expected = (weights, gradients, optimizer, host)
    held = (state.weights, state.gradients, state.optimizer, state.host)
    assert held == pytest.approx([count * each for each in expected], rel=1e-6)


def test_averages_are_shared_out_under_every_strategy():
    for strategy in ("ddp", "zero_2", "fsdp"):
        changed = job(f"scale.strategy={strategy}", "optimizer.ema_decay=0.999")
        assert held_state(changed).average == 4 * model_size(changed).trained // 256


def test_a_checkpoint_holds_weights_and_moments():
    size = model_size(job())
    assert checkpoint_size(job()).total == 4 * (3 * size.trained + size.resting)
    averaged = checkpoint_size(job("optimizer.ema_decay=0.99")).total
    assert averaged - checkpoint_size(job()).total == 4 * size.trained
    partial = job(name="vg_partial_ft")
    assert checkpoint_size(partial).total == 12 * model_size(partial).trained


def test_what_rings_send_is_as_the_docs_say():
    trained = model_size(job()).trained

    def sent(strategy, *more):
        return sent_bytes(job(f"scale.strategy={strategy}", *more)) / (4 * trained * 255 / 256)

    assert round(sent("ddp"), 6) == 2
    assert round(sent("zero_1"), 6) == 3
    assert round(sent("fsdp"), 6) == 3
    assert sent_bytes(job("scale.strategy=ddp", "scale.workers=1")) == 0
    # Four micro-batches: ZeRO 2 reduces each of them, `ddp` and ZeRO 1 their sum.
    more = ("training.global_batch=1024", "training.micro_batch=1")
    assert [round(sent(each, *more)) for each in ("ddp", "zero_1", "zero_2", "fsdp")] == [
        2,
        3,
        9,
        12,
    ]


def test_a_plan_tells_the_state_without_torch_and_without_a_profile():
    plan = make_plan(job())
    assert plan.state == held_state(job())._asdict()
    text = io.StringIO()
    print_plan(plan, Console(file=text, width=100))
    assert "A worker holds 1.6 GB of weights, 15.4 MB of optimizer, beside" in text.getvalue()
