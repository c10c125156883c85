from __future__ import annotations

import dataclasses
import io
import json

import pytest
import torch
from data_samples import box_mask, region, sample
from PIL import Image
from rich.console import Console
from saved_weights import save_weights
from small_runs import NAMES, make_run, small_job

from datamodules.order.plan import Position
from datamodules.shards.writer import ShardWriter
from datamodules.stream.batch import RegionBatch
from datamodules.vocabulary import Vocabulary
from tap_platform.evaluation.captions import (
    CaptionedAnswer,
    answer_records,
    caption_regions,
    score_answers,
)
from tap_platform.evaluation.scores import RegionScores
from tap_platform.evaluation.suites import java
from tap_platform.evaluation.table import caption_table, score_markdown, score_table
from tap_platform.launch.export import export_run
from tap_platform.launch.final_evaluation import evaluate_run
from tap_platform.launch.predict import open_predictor
from tap_platform.launch.run_evaluation import EvaluationSettings, run_evaluation
from tap_platform.launch.tokenizers import prepare_tokenizer
from tap_platform.launch.weights_source import load_weights
from tap_platform.models import Tap, TapConfig
from tap_platform.runs.files import read_json, write_json
from tap_platform.runs.metrics import read_metrics
from tap_platform.runs.tables import read_table
from tap_platform.text import Tokenizer
from tap_platform.text.training import train_tokenizer

PHRASES = ("a striped cat", "a small brown dog", "the bird on the left")


def answer(caption="a red star", references=("a red star",), concept="red star", image="a"):
    return CaptionedAnswer(image, (0.0, 1.0, 2.0, 3.0), tuple(references), caption, concept)


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda _: None)


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("a small red striped star behind a ring", True),
        ("A RED STAR.", True),
        ("a star that is red", False),
        ("a red starfish", False),
        ("a pink star behind a red star", False),
        ("a red ring left of the star", False),
        ("red star above a ring", True),
        ("", False),
    ],
)
def test_a_caption_names_the_concept_by_its_words_in_order(caption, named):
    assert answer(caption).names_concept is named
    assert not answer(caption, concept=None).names_concept


def test_underscores_part_the_words_of_a_name():
    assert answer("the alarm clock", concept="alarm_clock").names_concept


def test_scores_are_means_over_all_and_the_share_is_of_named_regions(no_java):
    answers = [answer("a big red star", ["a big red star"]), answer("a dog", ["the blue ring"])]
    answers.append(answer("one more", ["the dog at home"], concept=None))
    scored = score_answers(answers)
    assert scored.means.captions == 3
    assert scored.means.names_concept == 0.5
    assert scored.means.cider == pytest.approx(sum(scored.cider) / 3)
    assert scored.cider[0] == pytest.approx(10)
    assert scored.means.meteor is None
    assert "install a JDK" in scored.notes[0]
    assert score_answers(answers[2:]).means.names_concept is None
    records = json.loads(json.dumps(answer_records(answers, scored)))
    assert [each["names_concept"] for each in records] == [True, False, None]
    assert records[0]["references"] == ["a big red star"]


COLUMNS = {
    "trained": RegionScores(0.5, 0.5, 0.5, None, 9, 0, 1.523, 0.177, 0.8, 5),
    "untrained": RegionScores(0.1, 0.1, 0.1, None, 9, 0, 0.0, 0.01, 0.0, 5),
}


def test_the_table_of_a_model_that_speaks_has_its_captions():
    lines = score_markdown(COLUMNS, ["a note"]).splitlines()
    assert "| CIDEr | 152.3 | 0.0 |" in lines
    assert "| METEOR | 17.7 | 1.0 |" in lines
    assert "| captions that name the concept | 80.0 % | 0.0 % |" in lines
    assert lines[-1].startswith("9 regions, 0 of them named; 5 described")
    assert lines[-1].endswith("a note")


def test_meteor_is_left_out_where_there_is_none():
    silent = {who: dataclasses.replace(each, meteor=None) for who, each in COLUMNS.items()}
    told = printed(score_table(silent, notes=["METEOR is left out"]))
    assert "CIDEr" in told
    assert "METEOR │" not in told
    assert "METEOR is left out" in told


def printed(table):
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()


def test_the_first_ten_captions_stand_beside_the_truth(no_java):
    answers = [answer(f"caption {n}", [f"truth {n}"], image=f"key{n}") for n in range(12)]
    told = printed(caption_table(answers, score_answers(answers)))
    shown = [n for n in range(12) if f"caption {n} " in told and f"truth {n} " in told]
    assert shown == list(range(10))
    assert told.index("key3") < told.index("key4")
    few = printed(caption_table(answers[:2], score_answers(answers[:2])))
    assert "the first 2 captions" in few


def test_markup_in_captions_is_text(no_java):
    odd = [answer("[bold]a[/nothing] dog", ["[red]a dog"])]
    assert "[bold]a[/nothing] dog" in printed(caption_table(odd, score_answers(odd)))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "tokenizer.model"
    train_tokenizer(PHRASES, 48, path)
    return Tokenizer(path)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TapConfig.preset("tiny", image_size=64, window_size=4, vocab_size=48, text_depth=1)
    return loud(Tap(config))


def loud(model):
    """A random model whose captions differ with what prompts them."""
    model.text_decoder.encoder.weight.data.mul_(100)
    return model


@pytest.fixture
def batch():
    """Two images with three regions, the second of which nobody has described."""
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[:, 2:8, 3:9] = True
    return RegionBatch(
        pixels=torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8),
        masks=masks,
        boxes=torch.tensor([[12.0, 8, 36, 32], [0, 0, 4, 4], [16, 16, 24, 40]]),
        image_index=torch.tensor([0, 0, 1]),
        priors=torch.zeros(3, 3),
        has_mask=torch.ones(3, dtype=torch.bool),
        has_prior=torch.zeros(3, dtype=torch.bool),
        concepts=torch.tensor([1, 0, -1]),
        weights=torch.ones(3),
        seeds=torch.arange(2),
        sizes=torch.tensor([[48, 64]] * 2),
        keys=["a", "b"],
        phrases=[("a dog", "the brown dog"), (), ("a thing",)],
        position=Position(),
    )


def test_described_regions_are_captioned_by_their_box_with_one_look_at_an_image(
    model, words, batch, monkeypatch
):
    looks = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda pixels: looks.append(len(pixels)) or encode(pixels))
    seen = []
    first, second = caption_regions(model, [batch], words, names=NAMES, progress=seen.append)
    assert (first.image, first.concept, first.box) == ("a", "dog", (12, 8, 36, 32))
    assert first.references == ("a dog", "the brown dog")
    assert (second.image, second.concept) == ("b", None)
    assert (looks, seen) == ([2], [2])
    model.eval()
    with torch.inference_mode():
        images = encode(model.normalize(batch.pixels))
        corners = batch.boxes.view(-1, 2, 2)
        output = model.decode(images, corners, torch.tensor([[2, 3]] * 3), batch.image_index)
        ids = model.caption(output.semantic_tokens[[0, 2], 0])
    expected = [" ".join(words.decode(row).split()) for row in ids.tolist()]
    assert [first.caption, second.caption] == expected


def test_a_model_may_speak_by_its_mask_tokens(model, words, batch):
    semantic = caption_regions(model, [batch], words)
    by_mask = caption_regions(model, [batch], words, token="mask")
    assert [each.caption for each in semantic] != [each.caption for each in by_mask]
    assert [each.box for each in semantic] == [each.box for each in by_mask]


def test_where_nobody_has_described_a_region_there_is_no_caption(model, words, batch):
    batch.phrases = [()] * 3
    assert caption_regions(model, [batch], words) == []


def write_shards(folder):
    """Three images of three regions each, two of these with a name in the vocabulary."""
    masks = [box_mask(48, 64, *box) for box in ((4, 6, 30, 40), (20, 10, 60, 30), (0, 0, 24, 24))]
    categories = (*NAMES[:2], "unheard of")
    for split in ("train", "val"):
        with ShardWriter(folder / split, 2) as writer:
            for number, phrase in enumerate(PHRASES):
                phrases = ((phrase, "A cat"), (), (PHRASES[0],))
                regions = [
                    region(mask, category, phrases=list(said))
                    for mask, category, said in zip(masks, categories, phrases, strict=True)
                ]
                made = sample(f"key{number}", regions, seed=number)
                writer.write(dataclasses.replace(made, priors=None))
    Vocabulary.from_names(NAMES, 64, kind="test").save(folder / "vocabulary.safetensors")
    return folder


def speaking_run(tmp_path, token="semantic", **data):
    """A run that says what random weights say, in words of its own tokenizer."""
    folder = write_shards(tmp_path / "data")
    recipe = {"type": "tap_caption", "train": "all", "caption": {"token": token}}
    job = small_job(
        folder,
        recipe={**recipe, "tokenizer": "trained"},
        model={"vocab_size": 30},
        tracking={"tracker": "none"},
        **({"data": data} if data else {}),
    )
    run = make_run(tmp_path / "runs")
    write_json(run.config, job.model_dump(mode="json"))
    prepare_tokenizer(job, run)
    torch.manual_seed(3)
    save_weights(run, 4, loud(Tap(job.model)).state_dict())
    return job, run


def test_the_final_evaluation_of_a_run_that_speaks(tmp_path, no_java):
    job, run = speaking_run(tmp_path)
    console = Console(file=io.StringIO(), width=120)
    scores = evaluate_run(job, run, console)
    # Random words are never the phrase; the commonest phrase of training is one of the truths.
    assert scores["trivial baseline"].cider > scores["trained"].cider
    assert scores["trivial baseline"].names_concept == 1
    assert scores["untrained"].captions == scores["trained"].captions == 6
    told = console.file.getvalue()
    assert "captions that name the concept" in told
    assert "METEOR is left out" in told
    assert "the first 6 captions" in told
    answers = read_json(run.report / "captions.json")
    assert [each["image"] for each in answers] == [f"key{n}" for n in range(3) for _ in range(2)]
    references = sorted(tuple(each["references"]) for each in answers[:2])
    assert references == [(PHRASES[0],), (PHRASES[0], "A cat")]
    assert {each["concept"] for each in answers} == {"cat", None}
    assert read_json(run.report / "scores.json")["trained"]["captions"] == 6
    (final,) = [each for each in read_metrics(run.metrics) if each.kind == "final"]
    assert {"cider", "names_concept", "box_iou"} <= set(final.values)
    assert "meteor" not in final.values
    assert list(run.pictures.glob("*.png"))
    (path,) = (run.path / "tables").glob("held-out-confusion-step-*.json")
    table = read_table(path)
    assert sum(row[2] for row in table.data) == scores["trained"].named_regions > 0


def test_a_run_that_does_not_speak_has_no_captions(tmp_path, no_java):
    job, run = speaking_run(tmp_path)
    run.tokenizer.unlink()
    console = Console(file=io.StringIO(), width=120)
    scores = evaluate_run(job, run, console)
    assert scores["trained"].cider is None
    assert "CIDEr" not in console.file.getvalue()
    assert not (run.report / "captions.json").exists()


def evaluated(run, out):
    settings = EvaluationSettings(str(run.path), ["captions"], workers=0)
    evaluation = run_evaluation(settings, out, Console(file=io.StringIO()))
    return evaluation.results[0], read_json(out / "captions-predictions.json")


def test_a_runs_own_tokenizer_and_phrases_are_those_of_tap_eval(tmp_path, no_java):
    _, run = speaking_run(tmp_path)
    result, said = evaluated(run, tmp_path / "out")
    assert result.counts == {"images": 3, "regions": 6}
    assert [each["references"] for each in said[:2]] == [[PHRASES[0], "A cat"], [PHRASES[0]]]


def test_names_of_categories_are_captions_where_the_run_learned_them(tmp_path, no_java):
    _, run = speaking_run(tmp_path, phrases="category")
    result, said = evaluated(run, tmp_path / "out")
    assert result.counts["regions"] == 9
    assert ["dog"] in [each["references"] for each in said]


def test_tap_eval_speaks_by_the_token_that_the_run_learned_by(tmp_path, no_java):
    said = {}
    for token in ("semantic", "mask"):
        _, run = speaking_run(tmp_path / token, token)
        assert load_weights(run.path).caption_token == token
        said[token] = [each["caption"] for each in evaluated(run, tmp_path / f"{token}-out")[1]]
    assert said["semantic"] != said["mask"]


def test_predictions_of_a_run_are_in_words_of_its_own(tmp_path, no_java):
    _, run = speaking_run(tmp_path, "mask")
    told = io.StringIO()
    predictor = open_predictor(str(run.path), None, None, Console(file=told, width=200))
    assert "captions by tokenizer.model" in told.getvalue()
    made = sample("key0", [], seed=0)
    found = predictor.set_image(Image.open(io.BytesIO(made.image))).predict(boxes=[20, 10, 60, 30])
    assert predictor.speech.token == "mask"
    words = Tokenizer(run.tokenizer)
    assert predictor.speech.tokenizer.path == run.tokenizer
    assert words.encode(found.captions[0])


def test_exported_weights_bring_their_tokenizer(tmp_path):
    _, run = speaking_run(tmp_path)
    weights, *others = export_run(str(run.path), "safetensors")
    assert weights.with_name("tokenizer.model") in others
    loaded = load_weights(weights)
    assert loaded.tokenizer.read_bytes() == run.tokenizer.read_bytes()
    Tokenizer(loaded.tokenizer).check_fits(loaded.model.config)
