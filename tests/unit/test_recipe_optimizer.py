import re

import pytest
import torch
from small_runs import MODEL

from tap_platform.config.training import OptimizerConfig, ScheduleConfig
from tap_platform.models import Tap, TapConfig
from tap_platform.recipes.optimizer import build_optimizer, build_scheduler, learning_rate_factor

NORMALIZED = re.compile(
    r"\.norm\d?\.|\.(lateral|output)_conv\.0\.1\.|image_decoder\.output_conv\.1\."
)


@pytest.fixture(scope="module")
def model():
    made = Tap(TapConfig(**MODEL))
    made.text_decoder.requires_grad_(False)
    return made


def decays(model, **changes):
    """The weight decay of every optimized parameter, by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, OptimizerConfig(**changes)).param_groups
    listed = [(names[id(p)], group["weight_decay"]) for group in groups for p in group["params"]]
    assert len(dict(listed)) == len(listed)
    return dict(listed)


def test_adamw_has_the_papers_settings(model):
    optimizer = build_optimizer(model, OptimizerConfig())
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.9, 0.999), 1e-8)


def test_what_is_optimized_is_all_but_the_text_decoder(model):
    expected = {name for name, _ in model.named_parameters() if "text_decoder" not in name}
    assert set(decays(model)) == expected


def test_v1_1_spares_normalization_layers_only(model):
    rates = decays(model, weight_decay=0.1)
    assert set(rates.values()) == {0.1, 0.0}
    assert {name for name, rate in rates.items() if rate == 0} == set(
        filter(NORMALIZED.search, rates)
    )
    for name in (
        "image_encoder.patch_embed.proj.bias",
        "image_encoder.pos_embed.weight",
        "image_encoder.blocks.0.attn.qkv.bias",
        "image_encoder.blocks.0.attn.rel_pos_embed.weight",
    ):
        assert rates[name] == 0.1
    for name in (
        "image_encoder.norm.bias",
        "image_encoder.cross_conv.0.norm3.weight",
        "image_encoder.neck.lateral_conv.0.1.weight",
        "image_decoder.output_conv.1.weight",
    ):
        assert rates[name] == 0


def test_v1_0_decays_matrices_only(model):
    rates = decays(model, decay_rule="v1.0")
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    decayed = {name for name, rate in rates.items() if rate}
    assert decayed == {n for n in rates if n.endswith("weight") and shapes[n] > 1}


def test_without_gradients_of_their_own_only_decayed_parameters_shrink():
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(layer, OptimizerConfig(lr=0.5, weight_decay=0.1)).step()
    shrunk = [0.95, 0.95, 1, 1]
    for parameter, was, share in zip(layer.parameters(), before, shrunk, strict=True):
        torch.testing.assert_close(parameter.detach(), was * share)


def test_warm_up_is_linear_and_reaches_the_peak_with_its_last_step():
    config = ScheduleConfig(warmup_steps=4, warmup_factor=0.2)
    factors = [learning_rate_factor(step, 20, config) for step in range(5)]
    assert factors == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0])


def test_the_cosine_falls_from_the_peak_to_the_final_share():
    config = ScheduleConfig(warmup_steps=2, final_factor=0.1)
    assert learning_rate_factor(2, 10, config) == 1
    assert learning_rate_factor(4, 10, config) == pytest.approx(0.1 + 0.9 * (2 + 2**0.5) / 4)
    assert learning_rate_factor(6, 10, config) == pytest.approx(0.55)
    assert learning_rate_factor(10, 10, config) == pytest.approx(0.1)
    assert learning_rate_factor(13, 10, config) == pytest.approx(0.1)
    factors = [learning_rate_factor(step, 10, config) for step in range(2, 11)]
    assert factors == sorted(factors, reverse=True)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert learning_rate_factor(0, 10, ScheduleConfig()) == 1


def test_the_scheduler_sets_the_rate_of_every_group(model):
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.02))
    scheduler = build_scheduler(optimizer, 4, ScheduleConfig(warmup_steps=2, warmup_factor=0))
    rates = []
    for _ in range(5):
        rates.append({group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    assert [len(each) for each in rates] == [1] * 5
    assert [each.pop() for each in rates] == pytest.approx([0.01, 0.02, 0.02, 0.01, 0])
