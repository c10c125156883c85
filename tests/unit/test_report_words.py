from __future__ import annotations

import pytest
from small_runs import make_run

from tap_platform.report.cards import (
    Card,
    CardPictures,
    count_failures,
    failures_first,
    phrases_in_short,
    rounded_down,
    shortened,
)
from tap_platform.report.facts import duration, facts_of, recipe_in_words
from tap_platform.report.records import RunRecords
from tap_platform.report.story import checkpoints_in_words, story_of
from tap_platform.report.tables import score_table, suite_tables
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import write_json
from tap_platform.runs.metrics import MetricsWriter

SPOKEN = {"box_iou": 0.5, "cider": 1.492, "names_concept": None, "regions": 3, "captions": 2}


def card(iou=0.9, true_concept="cat", **changes):
    fields = {"prompt": "box", "concept": "cat", "probability": 0.5, **changes}
    return Card(CardPictures(b"", b"", b""), iou=iou, true_concept=true_concept, **fields)


def facts(run):
    return {fact.label: (fact.value, fact.more) for fact in facts_of(RunRecords.read(run))}


def test_failures_come_first_the_gravest_and_the_lowest_before_all():
    cards = [
        card(0.95),
        card(0.8, caption="a dog", names_concept=False),
        card(0.7, concept="dog"),
        card(0.4),
        card(0.9, concept="dog", caption="a dog", names_concept=False),
        card(0.1, concept="dog"),
    ]
    ranked = failures_first(cards)
    assert [each.iou for each in ranked] == [0.1, 0.4, 0.7, 0.9, 0.8, 0.95]
    assert ranked[0].failures == ("mask", "concept")
    assert count_failures(cards) == {"mask": 2, "concept": 3, "caption": 2, "right": 1}


def test_what_has_no_name_cannot_be_named_wrongly():
    assert card(true_concept=None, concept="dog", caption="x", names_concept=None).failures == ()


def test_long_texts_are_cut_and_many_phrases_counted():
    assert shortened("a\n b\t c") == "a b c"
    assert shortened("x" * 10_000, 5) == "xxxxx…"
    assert phrases_in_short(("a", "b", "c", "d", "e", "f")) == ["a", "b", "c", "d", "and 2 more"]
    assert phrases_in_short(("a",)) == ["a"]


def test_an_iou_that_misses_the_limit_is_not_shown_at_it():
    assert [rounded_down(iou) for iou in (0.4999, 0.5, 1.0)] == ["0.49", "0.50", "1.00"]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"type": "tap_pretrain"}, "pre-training on masks and concepts"),
        ({"type": "tap_pretrain", "objective": {"concept_weight": 0}}, "pre-training on masks"),
        (
            {"type": "tap_caption", "train": "text_decoder", "caption": {"token": "mask"}},
            "partial fine-tuning: the text decoder alone, by the mask token of the box",
        ),
        (
            {"type": "tap_caption", "train": "all"},
            "full fine-tuning on masks, concepts and captions",
        ),
        ({"type": "package:Own"}, "package:Own"),
    ],
)
def test_a_recipe_is_told_in_words(recipe, words):
    assert recipe_in_words(recipe) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(9.4, "9 s"), (374, "6 min 14 s"), (7500, "2 h 5 min"), (0, "0 s")]
)
def test_durations_have_two_units(seconds, words):
    assert duration(seconds) == words


def test_a_run_without_anything_has_few_facts(tmp_path):
    run = make_run(tmp_path)
    assert facts(run)["steps"] == ("0", "")
    assert not {"recipe", "model", "data", "code"} & facts(run).keys()


def test_the_head_tells_what_the_files_tell(tmp_path):
    run = make_run(tmp_path, "chain-partial")
    make_run(tmp_path, "chain").pipeline.write_text("{}")
    make_run(tmp_path, "other").pipeline.write_text("{}")
    write_json(
        run.plan,
        {
            "parameters": {"a": 1_500_000, "b": 500_000},
            "trained_parameters": 500_000,
            "batch": {"global_batch": 8},
            "data": [{"folder": "/far/vg", "samples": 1200, "epochs": 2.0}],
        },
    )
    write_json(run.config, {"recipe": {"type": "tap_pretrain"}, "model": {"image_size": 64}})
    write_json(run.initial_weights, {"origin": "run base, step 2", "sha256": "ab" * 32, "step": 2})
    write_json(
        run.provenance,
        {"git_revision": "c" * 40, "git_dirty": True, "command": ["tap", "train", "a b.yaml"]},
    )
    found = facts(run)
    assert found["pipeline"][0] == "chain"
    assert found["model"][0] == "2.00 million parameters"
    assert "0.50 million of them trained" in found["model"][1]
    assert found["weights from"] == ("run base, step 2", "sha256 " + "ab" * 8)
    assert found["data"] == ("vg", "1,200 samples, 2 epochs")
    assert found["code"] == ("c" * 12, "with changes that are not committed")
    assert found["command"][0] == "tap train 'a b.yaml'"


def test_time_is_the_sum_of_attempts_without_pauses_and_later_evaluations(tmp_path):
    run = make_run(tmp_path)
    signs = [
        (1, "2026-01-01T10:00:00+00:00"),
        (1, "2026-01-01T10:05:00+00:00"),
        (2, "2026-01-03T10:00:00+00:00"),
        (2, "2026-01-03T10:02:30+00:00"),
    ]
    for attempt, time in signs:
        EventLog(run.events, attempt).record("sign", time=time)
    MetricsWriter(run.metrics, 2).write(1, {"ap": 0.5}, kind="eval_instances")
    assert facts(run)["trained for"] == ("7 min 30 s", "in 2 attempts")


def test_broken_files_are_told_and_the_others_read(tmp_path):
    run = make_run(tmp_path)
    run.config.write_text("{")
    run.plan.write_text("[]")
    MetricsWriter(run.metrics).write(1, {"loss": 2.0})
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "kind": "tra')
    records = RunRecords.read(run)
    assert [record.step for record in records.metrics] == [1]
    assert len(records.faults) == 2
    assert "config.json" in records.faults[0]
    with run.metrics.open("a") as file:
        file.write('\n{"step": 3}\n')
    assert "metrics.jsonl" in RunRecords.read(run).faults[-1]


def test_scores_have_units_and_absent_ones_are_dashes():
    table = score_table(
        {"step": 4, "trained": SPOKEN, "trivial baseline": {"box_iou": 0.625, "regions": 3}}
    )
    assert table.columns == ["trained", "trivial baseline"]
    shown = [(row.measure.title, row.measure.unit, row.cells, row.best) for row in table.rows]
    assert shown == [
        ("mask mIoU by box", "%", ["50.0", "62.5"], 1),
        ("CIDEr", "x 100", ["149.2", "-"], None),
    ]
    assert table.counts == "3 regions, 2 described"
    assert score_table({}) is None


def test_papers_stand_beside_a_suite_of_their_protocol_only(tmp_path):
    run = make_run(tmp_path)
    writer = MetricsWriter(run.metrics)
    writer.write(4, {"bleu_4": 0.124, "cider": 1.5}, kind="eval_captions")
    writer.write(4, {"ap": 0.1, "own_measure": 3.0}, kind="eval_instances")
    EventLog(run.events).record(
        "evaluated", suite="captions", protocol="captions of regions", data="a folder"
    )
    captions, instances = suite_tables(RunRecords.read(run))
    assert captions.title == "captions of regions"
    assert captions.rows[0].cells == ["150.0", "12.4"]
    papers = {row.model: row.cells for row in captions.rows[1:]}
    assert papers["TAP-L v1.1"] == ["154.7", "12.4"]
    assert [m.title for m in instances.measures] == ["AP", "own measure"]
    assert [row.cells for row in instances.rows] == [["10.0", "3"]]


def test_the_story_has_what_matters():
    events = [
        {"time": "2026-01-01T10:00:00.1+00:00", "kind": "started", "attempt": 1, "workers": 2},
        {"kind": "checkpoint", "step": 2},
        {"kind": "checkpoint", "step": 4},
        {"kind": "quarantined", "shard": "a", "key": "b", "reason": "c"},
        {"kind": "failed", "attempt": 1, "reason": "no\nroom" + "x" * 5000},
        {"kind": "training", "attempt": 2, "goes_on_from": "step-4"},
        {"kind": "odd_thing", "attempt": 2, "rank": 0, "size": 3},
        {"kind": "started", "attempt": 3},
        {},
    ]
    told = story_of(events)
    assert [each.what[:30] for each in told] == [
        "started on 2 workers by None",
        "failed: no room" + "x" * 15,
        "training goes on from step-4",
        "odd thing: size 3",
        "started",
        "something",
    ]
    assert told[0].time == "2026-01-01 10:00:00"
    assert [each.is_grave for each in told] == [False, True, *[False] * 4]
    assert len(told[1].what) < 700
    assert checkpoints_in_words(events) == "2 checkpoints written, the newest of step 4"
    assert checkpoints_in_words([]) == ""
