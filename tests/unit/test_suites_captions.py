from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from suite_truths import content, truth

from tap_platform.evaluation.suites import captions, java
from tap_platform.evaluation.suites.captions import (
    CaptionSuite,
    compare_captions,
    score_captions,
)
from tap_platform.evaluation.suites.java import JavaMissingError, TextMetrics

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
TEXTS = [
    "A man, riding a horse's back (fast).",
    "",
    "Dr. Smith can't do café 3.5% on-line",
    "a . b",
]
CANDIDATES = ["the cat sat on the mat", "a brown dog runs"]
REFERENCES = [["the cat sat on the mat"], ["a dog runs", "the brown dog is running"]]


@pytest.fixture(scope="module")
def process():
    with TextMetrics() as process:
        yield process


@needs_java
def test_tokens_are_those_of_the_penn_treebank(process):
    assert process.tokenize(TEXTS) == [
        "a man , riding a horse 's back -lrb- fast -rrb- .",
        "",
        "dr. smith ca n't do café 3.5 % on-line",
        "a . b",
    ]


@needs_java
def test_lines_within_a_text_do_not_shift_the_others(process):
    assert process.tokenize(["one\ntwo", "three\r\n"]) == ["one two", "three"]


@pytest.mark.long
@needs_java
def test_one_process_answers_again_and_again_and_meteor_is_pycocoevalcaps(process):
    whole, each = process.meteor(CANDIDATES, REFERENCES)
    # What pycocoevalcap's Meteor().compute_score gives, in a process of its own.
    assert each == pytest.approx([1, 0.4197512445337911])
    assert whole == pytest.approx(0.5430106152849822)
    assert process.meteor(CANDIDATES[:1], REFERENCES[:1])[0] == pytest.approx(each[0])
    assert process.tokenize(["still there"]) == ["still there"]


def test_a_java_that_fails_says_what_to_do(monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda _: "/bin/false")
    with TextMetrics() as process, pytest.raises(JavaMissingError, match="install a JDK"):
        process.tokenize(["word"] * 100)


@needs_java
def test_several_speakers_are_compared_by_all_metrics(process, monkeypatch):
    monkeypatch.setattr(captions, "TextMetrics", lambda: nullcontext(process))
    speakers = [CANDIDATES, ["a cat", "no idea"]]
    good, bad = compare_captions(speakers, REFERENCES)
    assert good.metrics["METEOR"] == pytest.approx(0.5430106152849822)
    assert bad.metrics["METEOR"] < good.metrics["METEOR"]
    assert list(good.metrics)[3:] == ["BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert good.notes == ()
    assert score_captions(CANDIDATES, REFERENCES) == good


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda _: None)


def test_without_java_the_other_metrics_are_there_and_the_note_says_why(no_java):
    scores = score_captions(CANDIDATES, REFERENCES)
    assert scores.metrics["METEOR"] is None
    assert all(scores.metrics[name] is not None for name in scores.metrics if name != "METEOR")
    assert "not installed: install a JDK" in scores.notes[0]


def test_scores_are_those_worked_out_by_hand(no_java):
    scores = score_captions(["the cat sat", "a dog"], [["The cat sat down."], ["a dog"]])
    # 5 words of 5 are right; the references have 6: brevity exp(1 - 6 / 5).
    brevity = np.exp(1 - 6 / 5)
    assert scores.metrics["BLEU-1"] == pytest.approx(brevity, rel=1e-4)
    assert scores.metrics["BLEU-2"] == pytest.approx(brevity, rel=1e-4)
    # The first has precision 1 and recall 3/4 (beta 1.2), the second is perfect.
    f = (1 + 1.2**2) * 0.75 / (0.75 + 1.2**2)
    assert scores.metrics["ROUGE-L"] == pytest.approx((f + 1) / 2)


def test_perfect_captions_of_four_words_have_a_cider_of_ten(no_java):
    texts = ["a big brown dog", "the small red car"]
    scores = score_captions(texts, [[text] for text in texts])
    assert scores.metrics["CIDEr"] == pytest.approx(10)
    assert scores.metrics["BLEU-4"] == pytest.approx(1, rel=1e-4)


def test_scoring_leaves_the_output_of_the_process_alone(no_java, monkeypatch):
    """Runs of an ablation are scored in threads, which share it."""
    seen = []
    score = Bleu.compute_score
    monkeypatch.setattr(
        Bleu, "compute_score", lambda *a, **k: (seen.append(sys.stdout), score(*a, **k))[1]
    )
    score_captions(["a dog"], [["a dog"]])
    assert seen == [sys.stdout]


def test_regions_with_captions_are_asked_about(tmp_path, no_java):
    suite = CaptionSuite(truth(tmp_path), tmp_path)
    requests = suite.requests()
    assert requests[11].tolist() == [[8, 18, 33, 43], [40, 10, 71, 41]]
    result = suite.score({11: ["a brown dog", "a dog"], 12: ["the red car"]})
    assert result.protocol == "captions of regions"
    assert result.counts == {"images": 2, "regions": 3}
    assert result.cases[1].wanted == "a black cat on a mat"
    assert result.cases[0].goodness > result.cases[1].goodness
    assert result.notes


def test_where_only_images_are_described_they_are_asked_about_as_a_whole(tmp_path, no_java):
    coco = content()
    for each in coco["annotations"]:
        each.pop("caption", None)
    coco["images"][1]["image_captions"] = ["a car", "a red car"]
    suite = CaptionSuite(truth(tmp_path, coco), tmp_path)
    assert np.isnan(suite.requests()[12]).all()
    result = suite.score({12: ["a red car"]})
    assert result.protocol == "captions of whole images"
    assert result.cases[0].box is None


def test_data_without_captions_are_refused(tmp_path):
    coco = content()
    for each in coco["annotations"]:
        each.pop("caption", None)
    with pytest.raises(ValueError, match="has no captions"):
        CaptionSuite(truth(tmp_path, coco), tmp_path).requests()
