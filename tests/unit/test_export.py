from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from saved_weights import save_weights
from small_runs import NAMES, make_run, small_job

from datamodules.vocabulary import Vocabulary
from tap_platform import cli
from tap_platform.launch.export import export_run
from tap_platform.launch.weights_source import load_weights
from tap_platform.models import Tap
from tap_platform.models.released import to_released
from tap_platform.runs.files import sha256_of, write_json

SCORES = {
    "box_iou": 0.625,
    "point_iou": 0.5,
    "point_oracle_iou": 0.5625,
    "concept_top1": 0.25,
    "regions": 40,
    "named_regions": 20,
}


def save_checkpoint(run, model, step):
    return save_weights(run, step, model.state_dict())


@pytest.fixture
def data(tmp_path):
    """What is left of a data set where only its concepts are needed."""
    folder = tmp_path / "data"
    folder.mkdir()
    Vocabulary.from_names(NAMES, 64, kind="category_names").save(folder / "vocabulary.safetensors")
    write_json(
        folder / "dataset.json", {"priors": "category_names", "settings": {"val_fraction": 0.2}}
    )
    return folder


@pytest.fixture
def run(tmp_path, data):
    """A finished run of two checkpoints, and the model of the second."""
    made = make_run(tmp_path / "runs")
    job = small_job(data, recipe={"objective": {"temperature": 0.02}})
    write_json(made.config, job.model_dump(mode="json"))
    write_json(
        made.provenance,
        {"git_revision": "abc123", "git_dirty": False, "data_hash": "def456", "command": ["tap"]},
    )
    write_json(made.report / "scores.json", {"step": 4, "trained": SCORES, "untrained": SCORES})
    torch.manual_seed(0)
    save_checkpoint(made, Tap(job.model), 2)
    model = Tap(job.model)
    for module in model.modules():
        if isinstance(getattr(module, "running_var", None), torch.Tensor):
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
    save_checkpoint(made, model, 4)
    return made, model


def assert_same(state, expected):
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


def test_the_newest_committed_checkpoint_of_a_run_is_loaded(run):
    made, model = run
    for source in (str(made.path), made.path, made.name):
        loaded = load_weights(source, storage=str(made.storage))
        assert_same(loaded.model.state_dict(), model.state_dict())
        assert not loaded.model.training
        assert loaded.vocabulary.names == NAMES
        assert loaded.origin == f"run {made.name}, step 4"
        assert loaded.preset is None
        assert loaded.temperature == 0.02


def test_a_checkpoint_that_rotted_or_is_unfinished_is_passed_over(run):
    made, _ = run
    part = next((made.checkpoints / "step-4").glob("part-00000-*"))
    with part.open("ab") as file:
        file.write(b"x")
    (made.checkpoints / "step-9").mkdir()
    assert load_weights(made.path).origin.endswith("step 2")


def test_a_run_without_its_data_has_no_concepts(run, data):
    (data / "vocabulary.safetensors").unlink()
    assert load_weights(run[0].path).vocabulary is None


def test_a_run_without_a_checkpoint_says_so(tmp_path, data):
    made = make_run(tmp_path / "runs", "young")
    write_json(made.config, small_job(data).model_dump(mode="json"))
    with pytest.raises(ValueError, match=r"young has no committed checkpoint yet"):
        load_weights(made.path)


@pytest.mark.parametrize("source", ["no_run", "no_file.pkl", "nowhere/file.safetensors"])
def test_a_source_that_is_not_there_is_named(tmp_path, source):
    with pytest.raises(ValueError, match=source):
        load_weights(source, storage=str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "suffix"), [("released", ".pkl"), ("safetensors", ".safetensors")]
)
def test_an_export_is_the_run_bit_for_bit(run, kind, suffix):
    made, model = run
    weights, vocabulary, card = export_run(str(made.path), kind)
    assert weights == made.path / "export" / f"run-step-4{suffix}"
    if kind == "released":
        with pytest.raises(ValueError, match="no preset"):
            load_weights(weights)
        content = pickle.loads(weights.read_bytes())
        assert {type(array) for array in content.values()} == {np.ndarray}
        found = {name: torch.from_numpy(array) for name, array in content.items()}
    else:
        loaded = load_weights(weights)
        assert_same(loaded.model.state_dict(), model.state_dict())
        assert loaded.vocabulary.names == NAMES
        assert loaded.temperature == 0.02
        assert loaded.origin == f"file {weights}"
        with safe_open(weights, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in model.state_dict()}
            assert file.metadata()["run"] == "run"
            assert file.metadata()["step"] == "4"
            assert file.metadata()["git_revision"] == "abc123"
    assert_same(found, to_released(model.state_dict()))
    assert sorted(path.name for path in card.parent.iterdir()) == sorted(
        path.name for path in (weights, vocabulary, card)
    )


def test_the_card_tells_numbers_data_limits_and_provenance(run):
    made, _ = run
    (made.report / "coco.md").write_text("| AP |\n|---|\n| 12.3 |\n")
    weights, _, card = export_run(str(made.path), "safetensors")
    text = card.read_text()
    for fact in (
        "# run, step 4",
        "| mask mIoU by box | 62.5 % | 62.5 % |",
        "| concept top-1 | 25.0 % | 25.0 % |",
        "coco:\n\n| AP |",
        "- concepts: 3 names, category_names",
        "not from a CLIP teacher",
        "- git revision: abc123",
        f"`{sha256_of(weights)}`",
        "decoder_dropout: 0.1",
    ):
        assert fact in text, fact
    assert str(made.storage) not in text
    assert "These are the scores of step" not in text


def test_the_card_owns_up_to_scores_of_another_step_and_to_an_unfinished_training(run):
    made, model = run
    save_checkpoint(made, model, 3)
    (made.checkpoints / "step-4" / "COMMITTED").unlink()
    text = export_run(str(made.path), "safetensors")[-1].read_text()
    assert "These are the scores of step 4, not of the weights of step 3." in text
    assert "Training had not ended" in text


def test_the_card_of_a_run_without_scores_says_so(run):
    (run[0].report / "scores.json").unlink()
    text = export_run(str(run[0].path), "safetensors")[-1].read_text()
    assert "The run was not evaluated." in text


def test_a_failed_export_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("tap_platform.launch.export.save_released_weights", fail)
    with pytest.raises(OSError, match="no space"):
        export_run(str(run[0].path), "released", tmp_path / "out" / "tap.pkl")
    assert not list((tmp_path / "out").iterdir())


def test_tap_export_says_what_it_wrote(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out" / "mine.safetensors"
    monkeypatch.setattr(sys, "argv", ["tap", "export", str(run[0].path), "--out", str(out)])
    cli.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"wrote {out}"
    assert len(printed) == 3
    assert json.loads(safe_open(out, framework="pt").metadata()["config"])["encoder_dim"] == 32


def test_the_format_and_the_suffix_must_agree(run, tmp_path):
    with pytest.raises(ValueError, match=r"format released is written to a \.pkl file"):
        export_run(str(run[0].path), "released", tmp_path / "tap.safetensors")


def test_loading_weights_imports_neither_ray_nor_lightning():
    code = (
        "import sys, tap_platform.launch.weights_source\n"
        "print({'ray', 'lightning'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_export_tells_which_token_prompts_the_captions(run, tmp_path, data):
    made, _ = run
    recipe = {"type": "tap_caption", "train": "all", "caption": {"token": "mask"}}
    write_json(made.config, small_job(data, recipe=recipe).model_dump(mode="json"))
    weights, *_ = export_run(str(made.path), "safetensors", tmp_path / "spoken.safetensors")
    assert load_weights(weights).caption_token == "mask"
    with pytest.raises(ValueError, match="prompted by the mask token"):
        export_run(str(made.path), "released")
