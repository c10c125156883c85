"""What trackers are told of a run in words: settings with units, labels, whose it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tap_platform.config.load import load_job
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import write_json
from tap_platform.runs.provenance import collect
from tap_platform.runs.tables import read_table
from tap_platform.runs.tracking.description import description_of
from tap_platform.runs.tracking.labels import data_of, labels_of
from tap_platform.runs.tracking.settings import settings_of, settings_text
from tap_platform.runs.tracking.shown import shown_run

JOB = Path(__file__).resolve().parents[2] / "jobs/tap_tiny_scenes.yaml"
UNITS = {
    "training.max_steps": "steps",
    "training.global_batch": "images",
    "model.image_size": "pixels",
    "model.window_size": "patches",
    "scale.cpus_per_worker": "CPUs",
    "scale.grace_seconds": "seconds",
    "tracking.interval": "seconds",
    "mirror.largest_megabytes": "megabytes",
    "data.max_bad_fraction": "of 1",
    "health.hang_minutes": "minutes",
    "optimizer.lr": "",
    "seed": "",
    "training.compile": "",
    "training.precision": "",
}


def settings():
    return settings_of(load_job(JOB).model_dump(mode="json"))


def test_settings_have_units_and_meanings():
    found = {each.key: each for each in settings()}
    assert {key: found[key].unit for key in UNITS} == UNITS
    assert found["tracking.interval"].meaning == "Seconds between two looks at the run directory."
    assert all(each.meaning for each in found.values())


def test_the_table_of_settings_is_markdown():
    text = settings_text(settings())
    lines = text.splitlines()
    assert len(lines) == 2 + len(settings())
    assert all(line.replace("\\|", "").count("|") == 5 for line in lines)
    assert any(line.startswith("| training.global_batch | ") for line in lines)


def test_a_config_that_is_no_job_has_settings_without_meanings():
    (one,) = settings_of({"a": {"b": 1}})
    assert (one.key, one.value, one.unit, one.meaning) == ("a.b", 1, "", "")


def make_run(tmp_path):
    run = RunDirectory.create(tmp_path, "tap", "one")
    data = {"/data/scenes": "ab" * 32, "s3://bucket/coco/": "cd" * 32}
    write_json(run.provenance, collect(data=data, data_hash="ef").to_json())
    return run, collect(data=data, data_hash="ef").to_json()


def test_labels_tell_whose_a_run_is_and_jobs_own_come_first(tmp_path):
    run, made_of = make_run(tmp_path)
    write_json(run.path / "sweep.json", {"sweep": "lr", "trial": "t0003"})
    labels = labels_of(run, made_of, {"cost-center": "4711", "team": "vision"})
    assert labels["owner"] == made_of["owner"]
    assert (labels["cost_centre"], labels["sweep"], labels["trial"]) == ("4711", "lr", "t0003")
    assert "team" not in labels, "the tracker has the job's own"
    assert "owner" not in labels_of(run, made_of, {"owner": "ada"})


def test_data_sets_by_name_place_and_hash(tmp_path):
    _, made_of = make_run(tmp_path)
    assert [tuple(each) for each in data_of(made_of)] == [
        ("scenes", "/data/scenes", "ab" * 32),
        ("coco", "s3://bucket/coco/", "cd" * 32),
    ]
    assert data_of({}) == []


def test_the_head_of_a_run():
    text = description_of(settings(), {"owner": "ada@box", "team": "vision"})
    assert text.startswith("owner **ada@box**, team **vision**\n- optimizer.lr: ")
    assert "- training.max_steps: " in text


def test_a_trial_whose_sweep_has_gone_stands_by_itself(tmp_path):
    run, made_of = make_run(tmp_path)
    write_json(run.path / "sweep.json", {"sweep": "gone", "trial": "t0003"})
    shown = shown_run(run)
    assert (shown.parent, shown.group, shown.job_type) == (None, None, "train")
    assert shown.revision == made_of["git_revision"]


def test_a_table_that_is_none_is_named(tmp_path):
    path = tmp_path / "x-step-1.json"
    for content, why in (
        ({"columns": ["a"]}, "no table"),
        ({"columns": ["a"], "data": [[1, 2]]}, "rows"),
    ):
        write_json(path, content)
        with pytest.raises(ValueError, match=f"x-step-1.json holds {why}"):
            read_table(path)
