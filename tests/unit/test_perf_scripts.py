from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

PERF = Path(__file__).resolve().parents[1] / "perf"


@pytest.fixture(autouse=True, scope="module")
def perf_scripts():
    """The benchmarks import each other as scripts of one folder do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PERF))
        yield
        for name in {path.stem for path in PERF.glob("*.py")} & set(sys.modules):
            del sys.modules[name]


@pytest.fixture(scope="module")
def step():
    from training_step import TrainingStep

    from tap_platform.config.model import TapConfig

    config = TapConfig.preset("tiny", image_size=64, window_size=2, encoder_dim=32)
    return TrainingStep(config, images=2, regions=3, device="cpu")


def gradients(step):
    found = {name: p.grad for name, p in step.model.named_parameters() if p.grad is not None}
    step.optimizer.zero_grad()
    return found


def test_a_step_in_phases_has_the_gradients_of_a_whole_step(step, monkeypatch):
    from training_step import Mode, Stopwatch

    mode = Mode(checkpointing=False, precision="fp32")
    watch = Stopwatch(step.synchronize)
    step.run_in_phases(mode, watch)
    in_phases = gradients(step)
    monkeypatch.setattr(step, "update", lambda: None)
    step.run(mode)
    whole = gradients(step)
    assert in_phases.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(in_phases[name], gradient, msg=name)
    assert set(watch.seconds) == {"encoder", "decoder", "prompts", "losses"}


def test_every_mode_makes_a_step(step):
    from model import shares_of, ways_of
    from training_step import Mode

    mode = Mode(checkpointing=True, precision="bf16")
    ways = ways_of(step, mode)
    assert list(ways) == ["step", "encoder", "checkpointing_off", "fp32"]
    before = step.model.pixel_mean.clone(), step.model.image_encoder.pos_embed.weight.clone()
    for way in ways.values():
        way()
    assert torch.equal(step.model.pixel_mean, before[0])
    assert not torch.equal(step.model.image_encoder.pos_embed.weight, before[1])
    assert sum(shares_of(step, mode).values()) == pytest.approx(1)


def test_boxes_of_made_up_regions_are_those_of_their_masks(step):
    batch = step.batch
    for mask, box in zip(batch.masks, batch.boxes, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        tight = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert (box / 4).tolist() == [int(side) for side in tight]


def test_an_inner_phase_stops_the_outer_clock(monkeypatch):
    import training_step

    ticks = iter([0.0, 1.0, 11.0, 13.0])
    monkeypatch.setattr(training_step.time, "perf_counter", lambda: next(ticks))
    watch = training_step.Stopwatch(lambda: None)
    with watch.phase("outer"), watch.phase("inner"):
        pass
    assert watch.seconds == {"outer": 3.0, "inner": 10.0}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_that_of_the_work(step):
    from memory import peak_bytes

    size = 64_000_000
    peak = peak_bytes(lambda: np.ones(size, np.uint8).sum(), step.device)
    assert 0.8 * size < peak < 1.2 * size  # the kernel counts in batches of pages
    assert peak_bytes(lambda: None, step.device) < 0.2 * size


def test_the_ways_to_read_take_the_same_number_of_samples(tmp_path, monkeypatch):
    import sa1b_like
    from data_ways import BATCH, decoder_way, stream_local_way

    for name, value in {"_TEXTURES": 1, "_FEWEST_REGIONS": 2, "_MOST_REGIONS": 3}.items():
        monkeypatch.setattr(sa1b_like, name, value)
    sa1b_like.make_data_set(tmp_path, BATCH, lambda done, of: None)
    for way in (
        stream_local_way(tmp_path, "training", BATCH),
        decoder_way(tmp_path, "training", BATCH, resize=True),
    ):
        assert way.measure() > 0


def test_ways_take_turns():
    from rich.progress import Progress
    from side_by_side import take_turns

    calls: list[str] = []

    def way(name):
        return lambda: calls.append(name) or len(calls)

    results = take_turns({"a": way("a"), "b": way("b")}, 2, Progress(disable=True), "round")
    assert calls == ["a", "b", "a", "b"]
    assert results == {"a": [1, 3], "b": [2, 4]}


def test_ratios_leave_out_the_way_that_was_not_measured():
    from data import ratios

    times = {"usual": 100.0, "stream_local": 10.0, "limit": 5.0, "jpeg": 4.0}
    assert ratios(times) == {
        "usual_to_stream_local": 10,
        "stream_local_to_limit": 2,
        "stream_local_to_jpeg": 2.5,
    }


@pytest.fixture
def questions():
    from decoder import Questions

    return Questions("tiny", prompts=5, words=6, device="cpu")


def test_plain_decoders_answer_as_ours(questions):
    from decoder import compare

    differences = compare(questions)
    assert differences.pop("same_words") == 1
    assert max(differences.values()) < 5e-5


def test_plain_decoders_have_our_gradients(questions):
    from decoder import PRODUCTS

    found = []
    for decode, _ in PRODUCTS.values():
        questions.image.requires_grad_().grad = None
        questions.tap.zero_grad()
        sum(part.square().mean() for part in questions.answer(decode)).backward()
        decoder = questions.tap.image_decoder
        found.append(
            {"image": questions.image.grad, **{n: p.grad for n, p in decoder.named_parameters()}}
        )
    ours, plain = found
    for name, gradient in plain.items():
        error = (ours[name] - gradient).norm()
        assert error <= 1e-3 * gradient.norm() + 1e-6, name


def test_every_task_of_the_decoders_is_done_both_ways(questions):
    from decoder import TASKS, ways_of

    for task in TASKS:
        ways = ways_of(questions, task)
        assert list(ways) == ["ours", "plain"]
        for way in ways.values():
            way()
    assert not questions.image.requires_grad
