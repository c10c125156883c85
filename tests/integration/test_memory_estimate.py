"""What a plan says of memory beside what real steps allocate: exact peaks of torch's allocator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tap_platform.config.load import load_job
from tap_platform.estimate.memory import memory_of
from tap_platform.estimate.traced_step import trace_step

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 0.15
WIDE = "model={preset: tiny, encoder_depth: 4, encoder_dim: 256, encoder_heads: 4}"


@pytest.fixture
def peak_of_steps(monkeypatch):
    """The benchmark's measure of a real step."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "tests/perf")])
    from real_memory import peak_of_steps

    return peak_of_steps


def job(*overrides):
    settings = (
        "scale.workers=1",
        "scale.device=cpu",
        "data.partitions=1",
        "data.regions_per_image=8",
        "training.global_batch=2",
        "init_from=some-run",
    )
    return load_job(ROOT / "jobs/tap_tiny_scenes.yaml", [*settings, *overrides])


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.precision=fp32",),
        ("training.precision=bf16",),
        pytest.param(("training.global_batch=1",), marks=pytest.mark.long),
        pytest.param(("training.global_batch=4", "training.micro_batch=2"), marks=pytest.mark.long),
        ("model.activation_checkpointing=true", "data.regions_per_image=1", WIDE),
        pytest.param(
            ("model={preset: tiny, image_size: 384, window_size: 8}", "training.precision=bf16"),
            marks=pytest.mark.long,
        ),
        (WIDE, "optimizer.decay_rule=v1.0"),
        ("recipe={type: tap_caption, train: all}",),
        pytest.param(
            ("recipe={type: tap_caption, train: text_decoder}", "data.regions_per_image=16"),
            marks=pytest.mark.long,
        ),
    ],
    ids=lambda each: ", ".join(each)[:60],
)
def test_estimates_are_within_15_percent_of_real_peaks(overrides, peak_of_steps):
    trained = job(*overrides)
    memory = memory_of(trained, trace_step(trained, on_gpu=False), on_gpu=False)
    # The step that is measured has one batch; that of a run is followed by the next.
    estimated = memory.allocated - memory.batches // 2
    measured = peak_of_steps(trained, torch.device("cpu"))
    assert estimated == pytest.approx(measured, rel=TOLERANCE)


def test_recomputation_keeps_less_and_computes_more():
    # Where the encoder is most of the step: one region an image.
    changes = (WIDE, "data.regions_per_image=1")
    kept, again = (
        trace_step(job(*changes, f"model.activation_checkpointing={each}"), on_gpu=False)
        for each in ("false", "true")
    )
    assert again.activations < 0.8 * kept.activations
    assert kept.flops < again.flops < 4 / 3 * kept.flops


def test_flops_are_those_of_the_real_step():
    from torch.utils.flop_counter import FlopCounterMode

    sys.path.append(str(ROOT / "tests/perf"))
    try:
        from real_memory import build_step
    finally:
        sys.path.remove(str(ROOT / "tests/perf"))
    with FlopCounterMode(display=False) as counter:
        build_step(job(), torch.device("cpu"))()
    assert trace_step(job(), on_gpu=False).flops == counter.get_total_flops()
