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


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A few small samples such as the benchmark of the data stream reads."""
    import sa1b_like

    folder = tmp_path_factory.mktemp("photographs")
    sizes = {"_TEXTURES": 1, "_FEWEST_REGIONS": 2, "_MOST_REGIONS": 3, "SAMPLES_PER_SHARD": 4}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            patch.setattr(sa1b_like, name, value)
        sa1b_like.make_data_set(folder, 8, lambda done, of: None)
    return folder


@pytest.mark.parametrize("way", ["stream_local", "limit", "jpeg"])
def test_ways_of_this_process_are_measured(photographs, way):
    from data_ways import BATCH, Reading, measure

    reading = Reading(photographs, "training", samples=3 * BATCH)
    assert 0 < measure(way, reading, warm=BATCH, ahead=BATCH) < 10_000


def test_the_ways_of_others_decode_what_ours_decodes(photographs):
    import webdataset
    from data_ways import OurDecoder, Reading

    reading = Reading(photographs, "evaluation", samples=8)
    members = next(iter(webdataset.WebDataset(reading.shards, shardshuffle=False)))
    decode = OurDecoder(reading)
    sample, columns = decode(members), decode.columns(members)
    assert sample.size == (683, 1024)
    assert 1 <= len(sample.masks) == len(columns["masks"]) == len(columns["priors"]) <= 3
    assert sample.has_prior.all()
    np.testing.assert_array_equal(columns["masks"].view(bool), sample.masks)
    np.testing.assert_array_equal(columns["pixels"], sample.pixels)


def test_every_way_has_a_process_to_be_measured_in():
    from data_ways import HOSTS, WAYS

    assert sorted(way for ways in HOSTS.values() for way in ways) == sorted(WAYS)


def test_ways_take_turns():
    from rich.progress import Progress
    from side_by_side import take_turns

    calls: list[str] = []

    def way(name):
        return lambda: calls.append(name) or len(calls)

    results = take_turns({"a": way("a"), "b": way("b")}, 2, Progress(disable=True), "round")
    assert calls == ["a", "b", "a", "b"]
    assert results == {"a": [1, 3], "b": [2, 4]}


def test_targets_are_judged_by_their_ratios():
    from data import judge

    times = {"usual": 400.0, "read_webdataset": 19.0, "webdataset": 12.0, "limit": 6.5}
    judged = judge({**times, "stream": 10.0})
    assert {name: each["measured"] for name, each in judged.items()} == {
        "usual_to_stream": 40,
        "read_webdataset_to_stream": 1.9,
        "webdataset_to_stream": 1.2,
        "limit_to_stream": 0.65,
    }
    assert [name for name, each in judged.items() if not each["met"]] == [
        "read_webdataset_to_stream"
    ]


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


def options_of(**changes):
    from argparse import Namespace

    values = {
        "preset": "tiny",
        "image_size": 64,
        "images": 1,
        "regions": 2,
        "steps": 1,
        "rounds": 1,
        "device": "cpu",
        "precision": "fp32",
        "words": 3,
        "quick": True,
    }
    return Namespace(**{**values, **changes})


def test_fine_tuning_is_measured_as_the_recipes_do_it(tmp_path):
    from fine_tuning import ways_of

    ways = ways_of(options_of(), tmp_path)
    before = {
        name: {key: value.clone() for key, value in way.recipe.model.state_dict().items()}
        for name, way in ways.items()
    }
    for way in ways.values():
        assert way.train(1) > 0
    moved = {
        name: {
            key.split(".")[0]
            for key, value in way.recipe.model.state_dict().items()
            if not torch.equal(value, before[name][key])
        }
        for name, way in ways.items()
    }
    assert moved["partial"] == {"text_decoder"}
    assert moved["full"] >= {"image_encoder", "image_decoder", "text_decoder"}


def test_every_caption_of_the_benchmark_has_all_its_words():
    from captioning import measure
    from rich.console import Console

    result = measure(options_of(image_size=256, images=1), Console(quiet=True))
    assert (result["regions"], result["words"]) == (2, 3)
    assert set(result["shares"]) == {"encoder", "decoder", "words"}
    assert sum(result["shares"].values()) == pytest.approx(1)
