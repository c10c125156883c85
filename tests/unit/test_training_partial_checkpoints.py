"""A run that trains a part of its model keeps that part, and ends as if it kept everything."""

from __future__ import annotations

import shutil
from itertools import product

import pytest
import torch
from rich.console import Console
from small_runs import make_run, small_job, train_here, write_folder

from tap_platform.launch.data_sets import vocabulary_of
from tap_platform.launch.initial_weights import check_initial_weights
from tap_platform.launch.train import create_run
from tap_platform.launch.weights_source import load_run
from tap_platform.runs.files import write_json
from tap_platform.text.training import train_tokenizer
from tap_platform.training import worker
from tap_platform.training.base_weights import whole_weights
from tap_platform.training.slices import SlicedState
from tap_platform.training.slices.slice import MOMENTS
from tap_platform.training.weights import load_model_weights

STEPS = {"training": {"max_steps": 4}, "checkpoint": {"every_steps": 2, "keep_last": 9}}
LOOKS = (("small", "large", "round"), ("cat", "dog", "bird"), ("asleep", "running"))
WORDS = [" ".join(words) for words in product(*LOOKS)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data, runs and a run of two steps of pre-training."""
    folder = tmp_path_factory.mktemp("world")
    write_folder(folder / "data")
    with pytest.MonkeyPatch.context() as patched:
        train_run(folder, "base", patched, training={"max_steps": 2})
    return folder


def make(folder, name, **changes):
    job = small_job(folder / "data", storage=str(folder / "runs"), **changes)
    run = make_run(folder / "runs", name)
    write_json(run.config, job.model_dump(mode="json"))
    if job.init_from is not None:
        check_initial_weights(job, Console(quiet=True)).write(run)
        train_tokenizer(WORDS, job.model.vocab_size, run.tokenizer)
    return job, run


def train_run(folder, name, monkeypatch, **changes):
    job, run = make(folder, name, **changes)
    return train_here(job, run, monkeypatch), run


def captions(base, train="text_decoder", **changes):
    recipe = {"type": "tap_caption", "train": train}
    return {
        "recipe": recipe,
        "init_from": base,
        "data": {"phrases": "category"},
        **STEPS,
        **changes,
    }


@pytest.fixture(scope="module")
def partial(world):
    """Records and directory of a run that trained the text decoder for four steps."""
    with pytest.MonkeyPatch.context() as patched:
        return train_run(world, "partial", patched, **captions("base"))


def base_weights(world):
    return load_model_weights(world / "runs/tap/base/checkpoints/step-2")


def test_only_what_is_trained_is_kept(world, partial):
    base, checkpoint = base_weights(world), partial[1].checkpoints / "step-4"
    kept = load_model_weights(checkpoint)
    assert set(kept) == {name for name in base if name.startswith("text_decoder.")}
    assert all(not torch.equal(kept[name], base[name]) for name in kept if "weight" in name)
    state = SlicedState(checkpoint)
    assert all(state.names(kind) == {f"model.{name}" for name in kept} for kind in MOMENTS)
    whole = world / "runs/tap/base/checkpoints/step-2"
    part, whole_part = (next(each.glob("part-00000-*")) for each in (checkpoint, whole))
    assert part.stat().st_size < whole_part.stat().st_size / 5


def test_the_whole_model_is_the_base_with_the_trained_part(world, partial):
    _, run = partial
    kept, base = load_model_weights(run.checkpoints / "step-4"), base_weights(world)
    model = load_run(run.path).model.state_dict()
    assert set(model) == set(base)
    assert all(torch.equal(model[name], kept.get(name, base[name])) for name in base)


def test_a_run_learns_from_its_base_on(world, partial):
    base, records = base_weights(world), partial[0]
    assert records[4]["loss"] < records[1]["loss"]
    fresh = {"seed": 7, "init_from": {"source": "base", "skip": ["text_decoder."]}}
    recipe = starting(*make(world, "skipped", **captions("base", **fresh)))
    same = {name for name, tensor in recipe.items() if torch.equal(tensor, base[name])}
    assert {name for name in base if not name.startswith("text_decoder.")} <= same
    assert "text_decoder.transformer.tok_embeddings.weight" not in same


def starting(job, run, checkpoint=None):
    """The model's weights before the first step of an attempt."""
    vocabulary = torch.from_numpy(vocabulary_of(job.data).embeddings)
    torch.manual_seed(job.seed)
    return worker.starting_recipe(job, run, vocabulary, checkpoint).model.state_dict()


def test_a_run_that_goes_on_equals_an_unbroken_one_in_every_bit(world, partial, monkeypatch):
    expected, whole = partial
    job, broken = make(world, "broken", **captions("base"))
    place = broken.checkpoints / "step-2"
    shutil.copytree(whole.checkpoints / "step-2", place)
    torch.rand(17)
    tail = train_here(job, broken, monkeypatch, place, start_step=2)
    assert {s: v["loss"] for s, v in tail.items()} == {s: expected[s]["loss"] for s in (3, 4)}
    ends = [whole_weights(run.checkpoints / "step-4") for run in (whole, broken)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_full_fine_tuning_starts_from_the_whole_and_keeps_the_whole(world, partial, monkeypatch):
    _, run = train_run(world, "full", monkeypatch, **captions("partial", train="all"))
    job, unstarted = make(world, "unstarted", **captions("partial", train="all", seed=7))
    start = whole_weights(partial[1].checkpoints / "step-4")
    begun = starting(job, unstarted)
    assert all(torch.equal(begun[name], start[name]) for name in start)
    kept = load_model_weights(run.checkpoints / "step-4")
    assert set(kept) == set(start)
    parts = {name.split(".")[0] for name in kept if not torch.equal(kept[name], start[name])}
    assert parts == {"image_encoder", "prompt_encoder", "image_decoder", "text_decoder"}


def test_without_a_base_nothing_is_trained(world, monkeypatch):
    job, run = make(world, "orphan", **captions("base"))
    told = run.initial_weights.read_text()
    run.initial_weights.write_text(told.replace("base/checkpoints/step-2", "lost/step-2"))
    with pytest.raises(ValueError, match=r"orphan starts from run base, step 2, and .*is gone"):
        train_here(job, run, monkeypatch)
    assert not list(run.checkpoints.iterdir())


def test_a_run_that_cannot_be_made_leaves_nothing(world):
    changes = captions("base", storage=str(world / "runs"))
    changes["recipe"]["tokenizer"] = str(world / "lost.model")
    before = set((world / "runs/tap").iterdir())
    with pytest.raises(ValueError, match=r"recipe\.tokenizer: .*lost\.model"):
        create_run(small_job(world / "data", **changes))
    assert set((world / "runs/tap").iterdir()) == before
