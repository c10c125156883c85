from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import load_file

from datamodules.vocabulary import Vocabulary, concept_list, name_embedding, name_embeddings


def test_embedding_is_a_fixed_unit_vector():
    vector = name_embedding("red star", 64)
    assert vector.shape == (64,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    # Written down once, so that embeddings in old data sets keep their meaning.
    expected = [-0.0996033, 0.0549498, -0.1536331, -0.0978901]
    np.testing.assert_allclose(vector[:4], expected, atol=1e-6)


def test_name_is_the_sum_of_its_words():
    red, star, red_star = name_embeddings(["red", "star", "red star"], 128)
    np.testing.assert_allclose(red_star, (red + star) / np.linalg.norm(red + star), atol=1e-6)


def test_batch_equals_single_names():
    names = concept_list("coco_80")[:10]
    batch = name_embeddings(names, 32)
    np.testing.assert_array_equal(batch, [name_embedding(name, 32) for name in names])


def test_shared_words_bring_names_near():
    rows = name_embeddings(["red star", "red ring", "blue heart"], 1024)
    cosine = rows @ rows.T
    assert cosine[0, 1] == pytest.approx(0.5, abs=0.1)
    assert cosine[0, 2] == pytest.approx(0.0, abs=0.1)


def test_case_and_punctuation_do_not_matter():
    np.testing.assert_array_equal(name_embedding("Hot-Dog", 16), name_embedding("hot dog", 16))


def test_name_without_words_is_refused():
    with pytest.raises(ValueError, match="has no word"):
        name_embedding(" - ", 16)


def test_save_and_load(tmp_path):
    saved = Vocabulary.from_names(concept_list("coco_80"), 48, "category_names")
    saved.save(tmp_path / "vocabulary.safetensors")
    loaded = Vocabulary.load(tmp_path / "vocabulary.safetensors")
    assert (loaded.names, loaded.kind) == (saved.names, "category_names")
    np.testing.assert_array_equal(loaded.embeddings, saved.embeddings)
    assert loaded.indexes["person"] == 0


def test_torch_reads_what_is_saved(tmp_path):
    saved = Vocabulary.from_names(["cat", "hot dog"], 48, "test")
    saved.save(tmp_path / "v")
    np.testing.assert_array_equal(load_file(tmp_path / "v")["embeddings"], saved.embeddings)


@pytest.mark.parametrize("content", [None, b"", b"not a vocabulary"])
def test_broken_file_is_named(tmp_path, content):
    path = tmp_path / "vocabulary.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"vocabulary\.safetensors holds no vocabulary"):
        Vocabulary.load(path)


def test_rows_must_match_names(tmp_path):
    Vocabulary(("one", "two"), np.eye(3, dtype=np.float32), "test").save(tmp_path / "v")
    with pytest.raises(ValueError, match="2 names, but embeddings of shape"):
        Vocabulary.load(tmp_path / "v")


@pytest.mark.parametrize("names", [({"a": 1},), (1,), ("a", "a")])
def test_names_are_text_and_stand_there_once(tmp_path, names):
    Vocabulary(names, np.eye(len(names), dtype=np.float32), "test").save(tmp_path / "v")
    with pytest.raises(ValueError, match="each name must be text, and stand there once"):
        Vocabulary.load(tmp_path / "v")


def test_embeddings_are_finite(tmp_path):
    Vocabulary(("one",), np.array([[1, np.nan]], np.float32), "test").save(tmp_path / "v")
    with pytest.raises(ValueError, match="NaN"):
        Vocabulary.load(tmp_path / "v")


def test_shipped_list():
    names = concept_list("coco_80")
    assert len(names) == len(set(names)) == 80
    assert names[0] == "person"


def test_list_from_a_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("cat\n\n hot dog \n")
    assert concept_list(path) == ("cat", "hot dog")


def test_unknown_list_names_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean coco_80\?"):
        concept_list("coco_8")


@pytest.mark.parametrize(("content", "message"), [("\n", "is empty"), ("a\nb\na\n", "more than")])
def test_bad_list_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        concept_list(path)
