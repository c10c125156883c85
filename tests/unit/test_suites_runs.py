from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from suite_truths import content, disc, rle, truth, write

from datamodules.vocabulary import Vocabulary
from tap_platform.cli import tap
from tap_platform.evaluation.suites import java
from tap_platform.evaluation.suites import view as views
from tap_platform.evaluation.suites.cards import best_and_worst
from tap_platform.evaluation.suites.prompts import Prompted, PromptSuite, Region, prompt_regions
from tap_platform.evaluation.suites.report import Evaluation, report_markdown, table_rows
from tap_platform.evaluation.suites.suite import Case, SuiteResult
from tap_platform.evaluation.suites.view import ImageView, read_pixels
from tap_platform.launch import evaluate as launch
from tap_platform.launch import run_evaluation as verb
from tap_platform.launch.weights_source import Loaded
from tap_platform.models import RegionOutput, Tap, TapConfig
from tap_platform.text.tokenizer import Tokenizer, shipped_model

NAMES = ("red car", "cat", "dog", "bird")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TapConfig.preset(
        "tiny", image_size=64, window_size=2, concept_dim=8, vocab_size=32000, text_depth=1
    )
    return Tap(config).eval()


@pytest.fixture
def weights(tmp_path, model, monkeypatch):
    """A file of weights that loads as the tiny model."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    vocabulary = Vocabulary.from_names(NAMES, 8, "test names")
    loaded = Loaded(model, vocabulary, None, "file weights")
    for module in (launch, verb):
        monkeypatch.setattr(module, "load_weights", lambda _: loaded)
    return path


def pixels():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_a_view_answers_in_the_images_own_pixels(model):
    with torch.inference_mode():
        view = ImageView(model, pixels())
        boxes = np.array([[10, 20, 50, 40]], np.float32)
        answer = view.ask_boxes(boxes)
        # The long side of 80 pixels is brought to 64.
        frame = torch.tensor([[[8, 16], [40, 32]]], dtype=torch.float32)
        expected = model.decode(view._embedding, frame, torch.tensor([[2, 3]]), torch.tensor([0]))
        (masks,) = view.masks(answer.masks[:, 0])
    assert torch.equal(answer.iou, expected.iou)
    assert masks.shape == (1, 60, 80)


def test_many_prompts_are_answered_in_parts_without_a_difference(model, monkeypatch):
    draw = np.random.default_rng(1)
    boxes = np.sort(draw.uniform(0, 60, (7, 2, 2)), 1).reshape(7, 4).astype(np.float32)
    with torch.inference_mode():
        view = ImageView(model, pixels())
        whole = view.ask_boxes(boxes)
        monkeypatch.setattr(views, "PROMPTS_AT_ONCE", 3)
        monkeypatch.setattr(views, "PIXELS_AT_ONCE", 1)
        parts = view.ask_boxes(boxes)
        assert torch.allclose(whole.masks, parts.masks, atol=1e-5)
        assert len(list(view.masks(parts.masks[:, 0]))) == 7


class PerfectView:
    """Answers boxes with mask 0 and points with masks of which the second is right."""

    size = (60, 80)

    def __init__(self, true):
        self.true = torch.from_numpy(np.stack(true)).float() * 2 - 1

    def _output(self, right, scores):
        wrong = -torch.ones_like(self.true)
        masks = torch.stack([self.true if i in right else wrong for i in range(4)], 1)
        iou = torch.tensor(scores).expand(len(self.true), 4)
        return RegionOutput(masks, iou, *3 * [torch.empty(0)])

    def ask_boxes(self, boxes):
        return self._output({0}, [0.0, 1.0, 1.0, 1.0])

    def ask_points(self, points):
        self.points = points
        return self._output({2}, [1.0, 0.9, 0.5, 0.1])

    def masks(self, logits):
        yield from (part > 0 for part in logits.split(3))

    def encoded_masks(self, logits):
        return [rle((each > 0).numpy().astype(np.uint8)) for each in logits]


def test_a_box_is_answered_by_mask_0_and_a_point_by_the_best_scored_of_the_others():
    true = [disc(20, 30, 12), disc(55, 25, 15)]
    view = PerfectView(true)
    answer = prompt_regions(
        view, Region(np.zeros((2, 4), np.float32), [rle(each) for each in true])
    )
    assert answer.ious.tolist() == [[1, 1, 0, 1]] * 2
    assert view.points.tolist() == [[20, 30], [55, 25]]


def test_mean_iou_counts_regions_alike(tmp_path):
    found = truth(tmp_path)
    blank = rle(np.zeros((60, 80), np.uint8))
    answers = {
        11: Prompted(np.array([[1, 1, 0, 0.5]] * 2, np.float32), np.zeros((2, 2)), [blank] * 2),
        12: Prompted(np.array([[0, 0, 1, 1]], np.float32), np.zeros((1, 2)), [blank]),
    }
    result = PromptSuite(found).score(answers)
    assert list(result.metrics.values()) == pytest.approx([2 / 3, 2 / 3, 1 / 3, 2 / 3])


def test_regions_without_a_pixel_are_not_prompted_for(tmp_path):
    coco = content()
    coco["annotations"][0]["segmentation"] = rle(np.zeros((60, 80), np.uint8))
    found = truth(tmp_path, coco)
    requests = PromptSuite(found).requests()
    assert {identity: len(each.masks) for identity, each in requests.items()} == {11: 1, 12: 1}


def test_an_image_that_does_not_fit_its_annotations_is_named(tmp_path):
    coco = content()
    coco["images"][0]["height"] = 61
    found = truth(tmp_path, coco)
    with pytest.raises(ValueError, match=r"image 11 \(.*11.png\) has 60 x 80 .* say 61 x 80"):
        read_pixels(found.places[11], 11, (61, 80))
    (tmp_path / "images/12.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"image 12 cannot be evaluated: .*12\.png"):
        read_pixels(found.places[12], 12, None)


def case(image_id, goodness):
    return Case(image_id, None, None, goodness, "", "", "")


def test_best_and_worst_share_no_case_and_show_an_image_once():
    best, worst = best_and_worst([case(1, 0.9), case(1, 0.8), case(2, 0.7), case(3, 0.1)], 2)
    assert [each.goodness for each in best] == [0.9]
    assert [each.goodness for each in worst] == [0.1, 0.7]


def test_comparable_rows_of_the_papers_come_first_and_others_are_told_apart():
    result = SuiteResult("instances", "LVIS masks from detector boxes", {"AP": 0.5, "APr": None},
                         {"images": 2}, [], [])  # fmt: skip
    evaluation = Evaluation("mine", "here", [result], {"captions": "no captions"})
    rows = table_rows(result, evaluation)
    assert (rows[0].model, rows[0].metrics) == ("mine", {"AP": 50, "APr": None})
    assert (rows[1].model, rows[1].metrics["APr"]) == ("TAP-B v1.0", 33.1)
    flags = [row.comparable for row in rows]
    assert flags == sorted(flags, reverse=True)
    text = report_markdown(evaluation)
    assert "| mine | here | 50.0 | - |" in text
    assert "another protocol" in text
    assert "captions was left out: no captions" in text


def test_all_suites_run_on_one_pass_and_leave_a_report(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda _: None)  # METEOR takes seconds to start
    folder, out = write(tmp_path / "coco", content()), tmp_path / "out"
    arguments = ["eval", str(weights), "--data", str(folder), "--out", str(out), "--workers", "0"]
    result = CliRunner().invoke(tap, [*arguments, "--tokenizer", "shipped"])
    assert result.exception is None, result.output
    report = json.loads((out / "report.json").read_text())
    assert list(report["suites"]) == ["instances", "classification", "prompts", "captions"]
    assert report["suites"]["classification"]["counts"]["categories"] == 3
    assert report["suites"]["captions"]["papers_in_percent"][0]["metrics"]["CIDEr"] == 149.2
    found = json.loads((out / "instances-predictions.json").read_text())
    assert {each["category_id"] for each in found} == {7, 3, 5}
    assert {path.name for path in out.glob("*.png")} >= {"instances-best.png", "prompts-worst.png"}


def test_of_all_suites_those_that_cannot_run_are_left_out_and_told(tmp_path, weights):
    folder, out = write(tmp_path / "coco", content()), tmp_path / "out"
    settings = verb.EvaluationSettings(
        str(weights), verb.named_suites("all"), folder, images=1, workers=0
    )
    evaluation = verb.run_evaluation(settings, out, Console(quiet=True))
    assert [each.suite for each in evaluation.results] == ["instances", "classification", "prompts"]
    assert "give --tokenizer" in evaluation.skipped["captions"]
    assert evaluation.results[0].counts["images"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "captions"], "captions need the tokenizer"),
        (["--suite", "classification", "--concepts", "few"], "lack 2 of the 3"),
        (["--suite", "classification", "--concepts", "wide"], "embeddings of width 4"),
    ],
)
def test_a_suite_that_was_asked_for_says_what_it_lacks(tmp_path, weights, arguments, message):
    folder = write(tmp_path / "coco", content())
    Vocabulary.from_names(["cat", "bird"], 8, "test").save(tmp_path / "few")
    Vocabulary.from_names(NAMES, 4, "test").save(tmp_path / "wide")
    arguments = [str(tmp_path / each) if each in ("few", "wide") else each for each in arguments]
    common = ["eval", str(weights), "--data", str(folder), "--out", str(tmp_path), "--workers", "0"]
    result = CliRunner().invoke(tap, [*common, *arguments])
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)


def test_weights_without_data_are_asked_for_them(tmp_path, weights):
    settings = verb.EvaluationSettings(str(weights), ["prompts"])
    with pytest.raises(ValueError, match="give --data"):
        verb.run_evaluation(settings, tmp_path, Console(quiet=True))


def test_captions_end_where_the_model_ends_them(model):
    from tap_platform.evaluation.suites.captions import Captioner

    boxes = np.array([[np.nan] * 4, [0, 0, 80, 60]], np.float32)
    with torch.inference_mode():
        view = ImageView(model, pixels())
        texts = Captioner(shipped_model())(view, boxes)
        tokens = view.ask_boxes(boxes[1:]).semantic_tokens[:, 0]
        words = model.caption(tokens, model.config.text_length - 2)
    expected = Tokenizer(shipped_model()).decode(words[0].tolist())
    assert texts[0] == texts[1] == " ".join(expected.split())
