from __future__ import annotations

import dataclasses

import pytest
from data_samples import box_mask, region, sample
from small_runs import NAMES, make_run, small_job

from datamodules.shards.writer import ShardWriter
from datamodules.vocabulary import Vocabulary
from tap_platform.launch.tokenizers import (
    named_tokenizer,
    prepare_tokenizer,
    tokenizer_beside,
    tokenizer_of,
)
from tap_platform.runs.files import write_json
from tap_platform.text import Tokenizer, tokenizer
from tap_platform.text.tokenizer import shipped_model
from tap_platform.text.training import train_tokenizer

PHRASES = ["A Red Star", "a blue ring", "a small green square"]
PIECES = 40
SHIPPED_SIZES = {"vocab_size": 32000}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards whose regions have phrases, but the last, which has its category alone."""
    folder = tmp_path_factory.mktemp("data")
    mask = box_mask(48, 64, 4, 6, 30, 40)
    regions = [region(mask, "cat", phrases=[phrase, " "]) for phrase in PHRASES]
    regions.append(region(mask, "yellow dog"))
    for split in ("train", "val"):
        with ShardWriter(folder / split, 4) as writer:
            writer.write(dataclasses.replace(sample("a", regions), priors=None))
    Vocabulary.from_names(NAMES, 64, kind="test").save(folder / "vocabulary.safetensors")
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A tokenizer of some other training."""
    path = tmp_path_factory.mktemp("pieces") / "other.model"
    train_tokenizer(["an odd fish", "some other words of few letters"], PIECES, path)
    return path


def speaking_job(data, vocab_size=PIECES, init_from=None, **recipe):
    return small_job(
        data,
        model={"vocab_size": vocab_size},
        recipe={"type": "tap_caption", "train": "all", **recipe},
        storage=str(data / "runs"),
        **({"init_from": init_from} if init_from else {}),
    )


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs")


def test_by_default_a_run_keeps_a_copy_of_the_shipped_one(data, run, capsys):
    assert tokenizer_of(run) is None
    prepare_tokenizer(speaking_job(data, 32000), run)
    assert tokenizer_of(run) == run.tokenizer
    assert run.tokenizer.read_bytes() == shipped_model().read_bytes()
    assert capsys.readouterr().out == ""


def test_a_file_is_taken_by_its_path(data, run, pieces):
    prepare_tokenizer(speaking_job(data, tokenizer=str(pieces)), run)
    assert run.tokenizer.read_bytes() == pieces.read_bytes()


def test_one_is_made_of_the_phrases_that_are_learned(data, run, tmp_path):
    prepare_tokenizer(speaking_job(data, tokenizer="trained"), run)
    expected = tmp_path / "expected.model"
    train_tokenizer([phrase.lower() for phrase in PHRASES], PIECES, expected)
    assert run.tokenizer.read_bytes() == expected.read_bytes()
    assert Tokenizer(run.tokenizer).vocab_size == PIECES


def test_capitals_and_categories_are_learned_where_the_job_says_so(data, run):
    job = speaking_job(data, tokenizer="trained", caption={"lower_case": False})
    job = job.model_copy(update={"data": job.data.model_copy(update={"phrases": "category"})})
    prepare_tokenizer(job, run)
    words = Tokenizer(run.tokenizer)
    for phrase in ("A Red Star", "yellow dog"):
        assert words.unk_id not in words.encode(phrase)


def test_too_many_pieces_are_refused_with_the_number_that_can_be_had(data, run):
    with pytest.raises(ValueError, match=r"give \d+ pieces at most, not 500"):
        prepare_tokenizer(speaking_job(data, 500, tokenizer="trained"), run)
    assert tokenizer_of(run) is None


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (None, "has 32000 pieces, the model's text decoder 40.*`trained` makes one"),
        ("nowhere.model", "nowhere.model cannot be read"),
    ],
)
def test_one_that_does_not_fit_is_refused_before_it_is_copied(data, run, named, message):
    with pytest.raises(ValueError, match=message):
        prepare_tokenizer(speaking_job(data, tokenizer=named), run)
    assert tokenizer_of(run) is None


def test_pieces_of_another_script_are_refused(data, run, tmp_path):
    train_tokenizer(["красная звезда", "синее кольцо и квадрат"], PIECES, tmp_path / "ru.model")
    job = speaking_job(data, tokenizer=str(tmp_path / "ru.model"))
    with pytest.raises(ValueError, match=r"ru\.model has no piece of the first 3 phrases .*'a red"):
        prepare_tokenizer(job, run)
    assert not run.tokenizer.exists()


@pytest.fixture
def earlier(tmp_path, pieces):
    """A run that speaks the pieces of `pieces`."""
    made = make_run(tmp_path / "runs", "earlier")
    write_json(made.config, {})
    made.tokenizer.write_bytes(pieces.read_bytes())
    return made


@pytest.mark.parametrize("source", ["name", "directory", "checkpoint", "file"])
def test_the_tokenizer_of_the_initial_weights_is_inherited(data, run, earlier, source, capsys):
    exported = earlier.path / "weights.safetensors"
    exported.write_bytes(b"")
    sources = {
        "name": earlier.name,
        "directory": str(earlier.path),
        "checkpoint": str(earlier.checkpoints / "step-4"),
        "file": str(exported),
    }
    job = speaking_job(data, init_from=sources[source])
    prepare_tokenizer(job.model_copy(update={"storage": str(earlier.storage)}), run)
    assert run.tokenizer.read_bytes() == earlier.tokenizer.read_bytes()
    assert capsys.readouterr().out == ""


def test_weights_that_speak_other_pieces_are_warned_of(data, run, earlier, capsys):
    start = {"source": str(earlier.path)}
    prepare_tokenizer(speaking_job(data, init_from=start, tokenizer="trained"), run)
    assert "captions start from noise" in capsys.readouterr().out
    start["skip"] = ["text_decoder."]
    prepare_tokenizer(speaking_job(data, init_from=start, tokenizer="trained"), run)
    assert capsys.readouterr().out == ""


def test_released_weights_speak_the_pieces_of_llama_alone(data, run, tmp_path, capsys, monkeypatch):
    weights = tmp_path / "released.pkl"
    weights.write_bytes(b"")
    job = speaking_job(data, 32000, init_from=str(weights))
    prepare_tokenizer(job, run)
    assert "LLaMA's tokenizer.model" in capsys.readouterr().out
    monkeypatch.setattr(tokenizer, "RELEASED_SHA256_ENDS", ("", ""))
    prepare_tokenizer(job, run)
    assert capsys.readouterr().out == ""


def test_a_run_that_has_not_learned_to_speak_brings_no_tokenizer(data, run, tmp_path, capsys):
    silent = make_run(tmp_path / "runs", "silent")
    prepare_tokenizer(speaking_job(data, 32000, init_from=str(silent.path)), run)
    assert run.tokenizer.read_bytes() == shipped_model().read_bytes()
    assert capsys.readouterr().out == ""


def test_a_tokenizer_lies_beside_a_file_of_weights(tmp_path, pieces):
    weights = tmp_path / "weights.safetensors"
    assert tokenizer_beside(weights) is None
    (tmp_path / "tokenizer.model").write_bytes(pieces.read_bytes())
    assert tokenizer_beside(weights) == tmp_path / "tokenizer.model"


def test_people_name_a_path_or_the_shipped_one():
    assert named_tokenizer("shipped") == shipped_model()
    assert named_tokenizer("some.model").name == "some.model"
