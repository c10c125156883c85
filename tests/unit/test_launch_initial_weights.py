"""Where a model starts: every kind of source, what fits of it, and what is refused."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass

import pytest
import torch
from rich.console import Console
from saved_weights import save_weights
from small_runs import make_run, small_job
from tiny_model import MODEL

from tap_platform.config.initial_weights import InitialWeights
from tap_platform.config.load import anchored
from tap_platform.launch.export import export_run
from tap_platform.launch.initial_weights import (
    check_initial_weights,
    check_resumable,
    initialize,
)
from tap_platform.launch.train import create_run, resume_run
from tap_platform.launch.weights_source import load_run, load_weights
from tap_platform.models import Tap
from tap_platform.models.image_encoder import resize_positions
from tap_platform.models.released import POSITIONS, save_released_weights, to_released
from tap_platform.runs.files import read_json, write_json
from tap_platform.runs.status import update_status

WORDS = "text_decoder.transformer.tok_embeddings.weight"
PARTIAL = {"recipe": {"type": "tap_caption"}}


@dataclass
class Trained:
    """A run that was trained, the model of its newest checkpoint, and one beside it to start."""

    run: object
    model: Tap


def save(run, state, step):
    return save_weights(run, step, state)


def make_base(folder, name="base", seed=1, **changes):
    """A pre-training run of two checkpoints."""
    run, job = make_run(folder / "runs", name), small_job(folder / "data", **changes)
    write_json(run.config, job.model_dump(mode="json"))
    torch.manual_seed(seed)
    save(run, Tap(job.model).state_dict(), 2)
    model = Tap(job.model)
    save(run, model.state_dict(), 4)
    return Trained(run, model)


def job_from(base, folder, **changes):
    storage = str(base.run.storage)
    tree = {"init_from": str(base.run.path), "storage": storage, **PARTIAL, **changes}
    return small_job(folder / "data", **tree)


def make_partial(base, folder, name="partial", seed=2):
    """A run that has trained the text decoder of another, as its workers leave it."""
    job = job_from(base, folder)
    run = make_run(folder / "runs", name)
    write_json(run.config, job.model_dump(mode="json"))
    check_initial_weights(job, Console(quiet=True)).write(run)
    torch.manual_seed(seed)
    words = {n: t for n, t in Tap(job.model).state_dict().items() if n.startswith("text_decoder.")}
    save(run, words, 3)
    return Trained(run, words)


@pytest.fixture(scope="module")
def kept_base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def base(tmp_path):
    return make_base(tmp_path)


def fresh(**changes):
    torch.manual_seed(9)
    return Tap(small_job("nowhere", model=changes).model)


def assert_equal(state, expected):
    assert set(state) == set(expected)
    assert not [name for name in expected if not torch.equal(state[name], expected[name])]


def source_of(kind, base, folder):
    """The same weights in every form in which a job may name them."""
    run, model = base.run, base.model
    if kind == "name":
        return run.name
    if kind == "directory":
        return run.path
    if kind == "checkpoint":
        return run.checkpoints / "step-4"
    path = folder / f"tap{kind}"
    if kind == ".pth":
        torch.save(to_released(model.state_dict()), path)
    else:
        save_released_weights(model, path, {})
    return path


@pytest.mark.parametrize(
    "kind", ["name", "directory", "checkpoint", ".pkl", ".safetensors", ".pth"]
)
def test_every_kind_of_source_gives_the_same_weights(kind, kept_base, tmp_path):
    source, model = str(source_of(kind, kept_base, tmp_path)), fresh()
    assert not torch.equal(model.state_dict()[WORDS], kept_base.model.state_dict()[WORDS])
    report = initialize(model, InitialWeights(source=source), kept_base.run.storage)
    assert_equal(model.state_dict(), kept_base.model.state_dict())
    assert set(report.loaded) == set(model.state_dict())
    assert report.left_out == report.new == ()


def test_an_older_checkpoint_can_be_named(kept_base):
    model = fresh()
    initialize(model, InitialWeights(source=str(kept_base.run.checkpoints / "step-2")))
    torch.manual_seed(1)
    assert_equal(model.state_dict(), Tap(model.config).state_dict())


def test_beginnings_of_names_change_before_colours_are_turned(kept_base, tmp_path):
    state = to_released(kept_base.model.state_dict())
    torch.save({f"net.module.{name}": t for name, t in state.items()}, tmp_path / "tap.pt")
    config = InitialWeights(
        source=str(tmp_path / "tap.pt"), prefixes={"net.": "wrong.", "net.module.": ""}
    )
    model = fresh()
    initialize(model, config)
    assert_equal(model.state_dict(), kept_base.model.state_dict())


def test_two_tensors_cannot_get_one_name(tmp_path):
    torch.save({"a.pixel_mean": torch.ones(3), "b.pixel_mean": torch.ones(3)}, tmp_path / "x.pt")
    config = InitialWeights(source=str(tmp_path / "x.pt"), prefixes={"a.": "", "b.": ""})
    with pytest.raises(ValueError, match=r"pixel_mean to both a\.pixel_mean and b\.pixel_mean"):
        initialize(fresh(), config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefixes": {"modul.": ""}}, r"prefixes: no tensor .* begins with 'modul\.'; they .* im"),
        ({"skip": ("txt_decoder.",)}, r"skip: no tensor .* 'txt_decoder\.'; .* text_decoder\."),
    ],
)
def test_a_beginning_that_no_name_has_is_a_mistake(change, message, kept_base):
    config = InitialWeights(source=str(kept_base.run.path), **change)
    with pytest.raises(ValueError, match=message):
        initialize(fresh(), config)


def test_what_is_skipped_starts_anew(kept_base):
    config = InitialWeights(source=str(kept_base.run.path), skip=("text_decoder.",))
    model, untouched = fresh(), fresh().state_dict()
    report = initialize(model, config)
    words = {name for name in untouched if name.startswith("text_decoder.")}
    assert set(report.new) == set(report.left_out) == words
    expected = {**kept_base.model.state_dict(), **{name: untouched[name] for name in words}}
    assert_equal(model.state_dict(), expected)


def test_a_part_of_a_model_is_enough_and_strangers_are_left_out(kept_base, tmp_path):
    state = to_released(kept_base.model.state_dict())
    encoder = {name: t for name, t in state.items() if name.startswith("image_encoder.")}
    torch.save({**encoder, "head.weight": torch.ones(2)}, tmp_path / "encoder.pt")
    report = initialize(fresh(), InitialWeights(source=str(tmp_path / "encoder.pt")))
    assert report.left_out == ("head.weight",)
    assert set(report.loaded) == set(encoder)
    assert set(report.new) == set(state) - set(encoder)


def test_half_precision_is_widened_and_positions_fit_the_image(kept_base, tmp_path):
    state = {
        n: t.half() if t.is_floating_point() else t
        for n, t in to_released(kept_base.model.state_dict()).items()
    }
    torch.save(state, tmp_path / "half.pt")
    model = fresh(image_size=96)
    initialize(model, InitialWeights(source=str(tmp_path / "half.pt")))
    assert {t.dtype for t in model.parameters()} == {torch.float32}
    expected = resize_positions(state[POSITIONS], (6, 6)).float()
    assert torch.equal(model.state_dict()[POSITIONS], expected)


def test_another_size_is_refused_with_names_and_shapes(kept_base):
    with pytest.raises(ValueError, match="tensors have other shapes") as refused:
        initialize(fresh(embed_dim=64), InitialWeights(source=str(kept_base.run.path)))
    text = str(refused.value)
    assert " is [32, 32], the model has [64, 64]" in text
    assert text.count("\n  ") == 11
    assert "more\n" in text
    assert "skip: [text_decoder.]" not in text.partition("\n")[0]


def test_another_vocabulary_says_how_to_start_the_text_decoder_anew(kept_base):
    source, model = str(kept_base.run.path), fresh(vocab_size=80)
    with pytest.raises(ValueError, match="tokenizer or vocabulary differs") as refused:
        initialize(model, InitialWeights(source=source))
    assert f"{WORDS} is [64, 32], the model has [80, 32]" in str(refused.value)
    assert "init_from: {source: ..., skip: [text_decoder.]}" in str(refused.value)
    initialize(model, InitialWeights(source=source, skip=("text_decoder.",)))
    with pytest.raises(ValueError, match="other shapes") as refused:
        initialize(fresh(text_dim=64), InitialWeights(source=source))
    assert "tokenizer" not in str(refused.value)


def test_weights_that_have_nothing_in_common_are_refused(tmp_path):
    torch.save({"encoder.layer.0": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"none of its 1 tensors \(encoder\.layer\.0.*prefixes"):
        initialize(fresh(), InitialWeights(source=str(tmp_path / "other.pt")))


def test_numbers_that_are_not_finite_are_refused(base):
    state = base.model.state_dict()
    name = "image_decoder.iou_token.weight"
    state[name][0, 0] = float("nan")
    save(base.run, state, 6)
    with pytest.raises(ValueError, match=f"not finite:\n  {name}"):
        initialize(fresh(), InitialWeights(source=str(base.run.path)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_run", "there is no run 'no_run'"),
        ("gone.pkl", "init_from gone.pkl: there is no such file"),
        ("{run}/checkpoints/step-9", "no committed checkpoint step-9; there: step-2, step-4"),
        ("{run}/config.json", "cannot be read as a file of weights: torch.save did not write it"),
        ("{run}/checkpoints", "checkpoints is no run directory: it has no status.json"),
        ("previous", "init_from previous: only a stage of a pipeline"),
        ("stage:one", r"only a stage of a pipeline \(tap run\) can say so"),
    ],
)
def test_a_source_that_is_none_is_named(source, message, kept_base):
    config = InitialWeights(source=source.format(run=kept_base.run.path))
    with pytest.raises(ValueError, match=message):
        initialize(fresh(), config, kept_base.run.storage)


def test_a_checkpoint_that_rotted_is_refused_or_passed_over(base):
    newest = base.run.checkpoints / "step-4"
    with next(newest.glob("part-00000-*")).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"step-4/part-00000-\w+\.safetensors has \d+ bytes"):
        initialize(fresh(), InitialWeights(source=str(newest)))
    job = job_from(base, base.run.storage.parent)
    assert check_initial_weights(job, Console(quiet=True)).base.step == 2


def test_people_see_what_fits_by_part(kept_base, tmp_path):
    console = Console(record=True, width=100, file=io.StringIO())
    init_from = {"source": str(kept_base.run.path), "skip": ["text_decoder."]}
    check_initial_weights(job_from(kept_base, tmp_path, init_from=init_from), console)
    check_initial_weights(job_from(kept_base, tmp_path), console)
    skipped, whole = console.export_text().split("Starts from run base, step 4")[1:]
    rows = {line.split()[1]: line for line in skipped.splitlines() if len(line.split()) > 8}
    assert [rows["text_decoder"].split()[i] for i in (3, 5, 7)] == ["0", "17", "17"]
    assert rows["rest"].split()[3] == "2"
    assert "and 13 more" in skipped
    assert "random" not in skipped
    assert "note: the text decoder is random as yet" in whole


@pytest.mark.parametrize(("state", "warned"), [("running", True), ("finished", False)])
def test_a_base_that_may_delete_its_checkpoints_is_warned_of(state, warned, base, tmp_path):
    update_status(base.run.status, state=state)
    console = Console(record=True, width=200, file=io.StringIO())
    check_initial_weights(job_from(base, tmp_path), console)
    assert ("base is not finished: it deletes" in console.export_text()) is warned


def test_the_run_directory_tells_where_a_run_started(kept_base, tmp_path):
    run = make_partial(kept_base, tmp_path).run
    told = read_json(run.initial_weights)
    assert told["source"] == str(kept_base.run.path)
    assert (told["origin"], told["step"]) == ("run base, step 4", 4)
    assert told["path"] == str(kept_base.run.checkpoints / "step-4")
    assert told["sha256"] == (kept_base.run.checkpoints / "step-4/COMMITTED").read_text()
    assert "random" in told["note"]
    assert set(told["report"]["loaded"]) == set(kept_base.model.state_dict())


def test_a_run_on_a_part_is_loaded_whole_and_may_be_a_base_itself(base, tmp_path):
    first = make_partial(base, tmp_path, "first", seed=2)
    second = make_partial(first, tmp_path, "second", seed=3)
    for partial in (first, second):
        expected = {**base.model.state_dict(), **partial.model}
        assert_equal(load_run(partial.run.path).model.state_dict(), expected)
    assert not torch.equal(first.model[WORDS], second.model[WORDS])
    assert read_json(second.run.initial_weights)["note"] == ""


def test_a_storage_may_move_as_a_whole(base, tmp_path):
    partial = make_partial(base, tmp_path)
    expected = load_run(partial.run.path).model.state_dict()
    moved = base.run.storage.rename(tmp_path / "elsewhere")
    assert_equal(load_run(partial.run.name, str(moved)).model.state_dict(), expected)


def test_an_export_of_a_run_on_a_part_is_whole_and_its_card_names_the_base(base, tmp_path):
    partial = make_partial(base, tmp_path)
    weights, card = export_run(str(partial.run.path), "safetensors")
    expected = {**base.model.state_dict(), **partial.model}
    assert_equal(load_weights(weights).model.state_dict(), expected)
    text = card.read_text()
    assert "- started from: run base, step 4" in text
    assert "- learned: text_decoder" in text
    assert "it writes noise" not in text
    assert str(tmp_path) not in text


def remove(base):
    shutil.rmtree(base.run.checkpoints / "step-4")


def alter(base):
    path = next((base.run.checkpoints / "step-4").glob("part-00000-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def train_anew(base):
    save(base.run, Tap(base.model.config).state_dict(), 4)


@pytest.mark.parametrize(
    ("harm", "message"),
    [(remove, "step-4 is gone"), (alter, "changed after the commit"), (train_anew, "has changed")],
)
def test_a_base_that_is_gone_or_changed_is_named_wherever_it_is_missed(
    harm, message, base, tmp_path
):
    partial = make_partial(base, tmp_path)
    harm(base)
    expected = rf"partial starts from run base, step 4, and .*{message}.*put the very same files"
    for use in (
        lambda: load_run(partial.run.path),
        lambda: export_run(str(partial.run.path), "released"),
        lambda: initialize(fresh(), InitialWeights(source=str(partial.run.path))),
        lambda: resume_run(str(partial.run.path)),
    ):
        with pytest.raises(ValueError, match=expected):
            use()


def test_a_run_on_everything_needs_its_base_only_until_its_first_checkpoint(base, tmp_path):
    job = job_from(base, tmp_path, recipe={"type": "tap_caption", "train": "all"})
    run = make_run(tmp_path / "runs", "full")
    write_json(run.config, job.model_dump(mode="json"))
    check_initial_weights(job, Console(quiet=True)).write(run)
    remove(base)
    with pytest.raises(ValueError, match="full starts from run base, step 4, and"):
        check_resumable(job, run)
    save(run, base.model.state_dict(), 1)
    check_resumable(job, run)
    assert_equal(load_run(run.path).model.state_dict(), base.model.state_dict())


def test_parts_that_are_frozen_must_be_loaded(kept_base, tmp_path):
    init_from = {"source": str(kept_base.run.path), "skip": ["image_decoder.iou_pred"]}
    job = job_from(kept_base, tmp_path, init_from=init_from)
    with pytest.raises(ValueError, match=r"freezes are not loaded \(image_decoder\.iou_pred"):
        check_initial_weights(job)
    whole = job_from(
        kept_base, tmp_path, init_from=init_from, recipe={"type": "tap_caption", "train": "all"}
    )
    assert check_initial_weights(whole, Console(quiet=True)) is not None


def test_the_driver_refuses_before_anything_is_made(kept_base, tmp_path):
    storage = tmp_path / "new"
    faults = {
        "other shapes": {"model": {**MODEL, "embed_dim": 64}},
        "there is no run 'lost'": {"init_from": "lost"},
        "init_from and recipe.mae_weights both": {
            "recipe": {"type": "tap_pretrain", "mae_weights": "vit.safetensors"}
        },
    }
    for message, changes in faults.items():
        job = job_from(kept_base, tmp_path, **{"storage": str(storage), **changes})
        with pytest.raises(ValueError, match=message):
            create_run(job)
        assert not list(storage.rglob("*"))


def test_a_path_becomes_absolute_and_a_name_stays(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = f"runs/tap/{base.run.name}"
    for source, expected in ((relative, str(base.run.path)), (base.run.name, base.run.name)):
        assert anchored(job_from(base, tmp_path, init_from=source)).init_from.source == expected
