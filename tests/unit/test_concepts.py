from __future__ import annotations

import hashlib
import json
import os
import pickle

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from open_clip import factory
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_clip import TINY_CLIP, write_clip

from datamodules.vocabulary import Vocabulary, concept_list
from tap_platform.cli import tap
from tap_platform.concepts import build_vocabulary, find_concepts, read_released_concepts
from tap_platform.concepts.sources import SOURCES
from tap_platform.concepts.templates import find_templates
from tap_platform.concepts.text_embeddings import TextEncoder


def test_the_merged_list_is_exactly_that_of_the_notebook():
    names = find_concepts("merged_2560").names
    assert len(names) == 2560
    content = "".join(f"{name}\n" for name in names).encode()
    assert (
        hashlib.sha256(content).hexdigest()
        == "ee8f25499e95e05be0b8a10fdfc6961bb53e703824c593831276648f8e67773b"
    )


def test_the_sources_are_as_long_as_the_notebook_has_them():
    lengths = {source: len(concept_list(source)) for source in SOURCES}
    assert lengths == {
        "coco_80": 80,
        "lvis_1203": 1203,
        "ade20k": 150,
        "objects365": 365,
        "openimages_v4_boxable": 601,
        "visual_genome_1600": 1625,
    }


def test_plurals_go_and_signs_become_spaces_where_lists_join_words_by_them():
    names = set(find_concepts("merged_2560").names)
    assert {"air conditioner", "person"} <= names
    assert "air_conditioner" not in names
    every = {
        name.lower().replace("_", " ").replace("-", " ") if joined else name.lower()
        for source, joined in SOURCES.items()
        for name in concept_list(source)
    }
    assert len(every) == 2831
    for name in every - names:
        assert name.removesuffix("s") in every or name.removesuffix("es") in every, name
    assert not any(f"{name}s" in names or f"{name}es" in names for name in every)


def test_data_set_vocabularies_are_in_the_order_of_their_categories():
    coco, lvis = find_concepts("coco_80"), find_concepts("lvis_1203")
    assert coco.names[:3] == ("person", "bicycle", "car")
    assert coco.names[-1] == "toothbrush"
    assert coco.texts == coco.names
    assert lvis.names[:2] == ("aerosol_can", "air_conditioner")
    assert lvis.names[-1] == "zucchini"
    assert lvis.texts[:2] == ("aerosol can", "air conditioner")


def test_names_of_a_file_stay_as_they_are(tmp_path):
    (tmp_path / "own.txt").write_text("Left_hand\nright-hand\n")
    found = find_concepts(tmp_path / "own.txt")
    assert found.names == found.texts == ("Left_hand", "right-hand")


def test_an_unknown_list_names_those_that_exist():
    with pytest.raises(ValueError, match=r"No concept list 'lvis_1230'.*Did you mean lvis_1203"):
        find_concepts("lvis_1230")


def test_templates_are_sets_or_sentences():
    assert find_templates(["tap"]) == ("a {}",)
    assert find_templates(["photo", "one {}."]) == ("a photo of a {}", "one {}.")
    assert len(find_templates(["imagenet"])) == 80
    assert all(sentence.count("{}") == 1 for sentence in find_templates(["imagenet"]))


@pytest.mark.parametrize("given", [["no place"], ["{} and {}"], []])
def test_a_template_without_one_place_is_refused(given):
    with pytest.raises(ValueError, match=r"\{\}"):
        find_templates(given)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with a tiny CLIP model: config and random weights."""
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder, TINY_CLIP)
    return folder


@pytest.fixture
def architecture(clip, tmp_path, monkeypatch):
    """The same model under a name of open_clip, without weights."""
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    return "tiny-clip"


NAMES = ("dog", "red car", "air conditioner")


def embedded_by_hand(clip, templates):
    model = open_clip.create_model(f"local-dir:{clip}").eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{clip}")
    rows = []
    with torch.no_grad():
        for name in NAMES:
            unit = [
                torch.nn.functional.normalize(
                    model.encode_text(tokenize([t.format(name)]))[0], dim=0
                )
                for t in templates
            ]
            rows.append(torch.nn.functional.normalize(torch.stack(unit).mean(0), dim=0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("templates", [("a {}",), ("a {}", "a photo of a {}", "{}")])
def test_embeddings_are_normalized_means_over_templates(clip, templates):
    encoder = TextEncoder.load(f"local-dir:{clip}")
    seen = []
    found = encoder.embed(NAMES, templates, lambda done, of: seen.append((done, of))).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, embedded_by_hand(clip, templates), atol=1e-6)
    assert seen[-1] == (3 * len(templates), 3 * len(templates))


def test_an_architecture_takes_a_local_file_of_weights(clip, architecture):
    weights = str(clip / "open_clip_model.safetensors")
    found = TextEncoder.load(architecture, weights).embed(NAMES, ("a {}",)).numpy()
    np.testing.assert_allclose(found, embedded_by_hand(clip, ("a {}",)), atol=1e-6)


def test_a_hub_name_is_read_by_way_of_the_hub(clip, monkeypatch):
    asked = []

    def download(model_id, filename=None, **_):
        asked.append(model_id)
        return str(clip / (filename or "open_clip_model.safetensors"))

    monkeypatch.setattr(factory, "download_pretrained_from_hf", download)
    found = TextEncoder.load("hf-hub:someone/tiny").embed(NAMES, ("a {}",)).numpy()
    np.testing.assert_allclose(found, embedded_by_hand(clip, ("a {}",)), atol=1e-6)
    assert set(asked) == {"someone/tiny"}


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("EVA02-E-14-plus", None, "no weights by itself.*laion2b_s9b_b144k"),
        ("EVA02-E14-plus", None, "no model EVA02-E14-plus: did you mean EVA02-E-14-plus"),
        ("no-such-model", "a-tag", "open_clip cannot load no-such-model with weights a-tag"),
        ("local-dir:/no/such/folder", None, "open_clip cannot load local-dir:/no/such/folder"),
    ],
)
def test_a_model_that_cannot_be_had_is_named(model, weights, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder.load(model, weights)


def test_a_checkpoint_of_another_model_is_refused(architecture, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"open_clip cannot load tiny-clip with weights .*other"):
        TextEncoder.load(architecture, str(tmp_path / "other.safetensors"))


def test_build_writes_names_embeddings_and_provenance(clip, tmp_path):
    (tmp_path / "own.txt").write_text("".join(f"{name}\n" for name in NAMES))
    out = tmp_path / "new" / "own.safetensors"
    arguments = ["concepts", "build", out, "--names", tmp_path / "own.txt"]
    arguments += ["--model", f"local-dir:{clip}", "--template", "tap", "--template", "a bad {}"]
    done = CliRunner().invoke(tap, [*map(str, arguments)], catch_exceptions=False)
    assert "3 concepts of width 16" in done.output
    vocabulary = Vocabulary.load(out)
    assert vocabulary.names == NAMES
    np.testing.assert_allclose(
        vocabulary.embeddings, embedded_by_hand(clip, ("a {}", "a bad {}")), atol=1e-6
    )
    assert vocabulary.temperature == 0.01
    weights = (clip / "open_clip_model.safetensors").read_bytes()
    with safe_open(out, framework="numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["names"]) == list(NAMES)
    assert metadata["kind"] == f"open_clip local-dir:{clip}"
    assert json.loads(metadata["templates"]) == ["a {}", "a bad {}"]
    assert metadata["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert (
        metadata["names_sha256"] == hashlib.sha256((tmp_path / "own.txt").read_bytes()).hexdigest()
    )
    assert metadata["open_clip"] == open_clip.__version__


def test_the_same_build_writes_the_same_bytes(clip, tmp_path):
    concepts = find_concepts("coco_80")
    for name in ("a", "b"):
        build_vocabulary(concepts, f"local-dir:{clip}", None, ("a {}",)).save(tmp_path / name)
    Vocabulary.load(tmp_path / "a").save(tmp_path / "c")
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1
    assert Vocabulary.load(tmp_path / "a").names == concept_list("coco_80")


def test_list_prints_a_list():
    done = CliRunner().invoke(tap, ["concepts", "list", "merged_2560"])
    assert done.output.splitlines() == list(find_concepts("merged_2560").names)


def released_file(path, scale=100.0, names=NAMES, dim=16):
    columns = np.random.default_rng(0).normal(size=(dim, len(names)))
    columns *= scale / np.linalg.norm(columns, axis=0)
    path.write_bytes(pickle.dumps([columns.astype(np.float32), list(names)]))
    return columns


@pytest.mark.parametrize("scale", [100.0, 87.5])
def test_released_concepts_become_unit_rows_and_a_temperature(tmp_path, scale):
    columns = released_file(tmp_path / "own.pkl", scale)
    out = tmp_path / "own.safetensors"
    arguments = ["concepts", "import", str(tmp_path / "own.pkl"), str(out)]
    CliRunner().invoke(tap, arguments, catch_exceptions=False)
    vocabulary = Vocabulary.load(out)
    assert vocabulary.names == NAMES
    assert vocabulary.kind == "released"
    assert vocabulary.temperature == pytest.approx(1 / scale, rel=1e-6)
    np.testing.assert_allclose(
        vocabulary.embeddings / vocabulary.temperature, columns.T, rtol=2e-6, atol=1e-4
    )


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


GOOD = np.ones((4, 2), np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([GOOD, Evil()], "only numpy arrays are admitted"),
        (Evil(), "only numpy arrays are admitted"),
        ({"a": 1}, "holds a dict"),
        ([GOOD], "holds a list"),
        (["a", ["b"]], "first part is not a matrix"),
        ([GOOD, ["a", 1]], "second part is not a list of names"),
        ([GOOD, ["a", "b", "c"]], "3 names for 2 columns"),
        ([GOOD, ["a", "a"]], "stands in it twice"),
        ([GOOD * np.nan, ["a", "b"]], "NaN"),
        ([GOOD * [[1, 2]], ["a", "b"]], "not one logit scale"),
    ],
)
def test_other_pickles_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(
        ValueError, match=rf"own.pkl cannot be read as a file of concepts.*{message}"
    ):
        read_released_concepts(tmp_path / "own.pkl")
    assert not (tmp_path / "evil").exists()


def test_a_truncated_file_of_concepts_is_named(tmp_path):
    released_file(tmp_path / "own.pkl")
    whole = (tmp_path / "own.pkl").read_bytes()
    (tmp_path / "own.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"own\.pkl cannot be read as a file of concepts"):
        read_released_concepts(tmp_path / "own.pkl")


def test_a_vocabulary_is_written_to_safetensors_only(tmp_path):
    released_file(tmp_path / "own.pkl")
    arguments = ["concepts", "import", str(tmp_path / "own.pkl"), str(tmp_path / "own.bin")]
    done = CliRunner().invoke(tap, arguments)
    assert isinstance(done.exception, ValueError)
    assert "is a .safetensors file, not" in str(done.exception)
