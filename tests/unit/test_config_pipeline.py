"""Pipelines as people write them: layers, words for earlier stages, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from tap_platform.config.load_pipeline import is_pipeline, load_pipeline
from tap_platform.config.pipeline import EvaluateConfig, PipelineConfig
from tap_platform.config.schema import pipeline_schema
from tap_platform.evaluation.suites.suite import SUITE_NAMES

JOB = """
name: below
storage: elsewhere
model: {preset: tiny}
data: {source: scenes, path: scenes}
training: {max_steps: 100, global_batch: 8}
"""
PIPELINE = """
name: three
base:
  extends: below.yaml
  seed: 7
stages:
  - name: first
    training: {max_steps: 50}
  - name: second
    recipe: {type: tap_caption}
    init_from: previous
  - name: measured
    evaluate: {images: 3}
  - name: third
    extends: wide.yaml
    recipe: {type: tap_caption, train: all}
    init_from: {source: "stage:first"}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/below.yaml").write_text(JOB)
    (tmp_path / "jobs/wide.yaml").write_text("scale: {workers: 2}\nproject: not_read\n")
    return write(tmp_path, PIPELINE)


def write(folder, text):
    path = folder / "jobs/three.yaml"
    path.write_text(text)
    return path


def change(spec, change):
    """Write the file anew, changed as a tree."""
    tree = yaml.safe_load(spec.read_text())
    change(tree)
    spec.write_text(yaml.safe_dump(tree))
    return spec


def jobs(pipeline):
    return {stage.name: stage.job for stage in pipeline.job_stages}


def refused(spec, *overrides):
    with pytest.raises(ValueError, match=r"three\.yaml|override|no\.yaml") as told:
        load_pipeline(spec, overrides)
    assert "pydantic" not in str(told.value)
    return str(told.value)


def test_stages_are_laid_over_the_base_and_over_what_they_extend(spec):
    found = jobs(load_pipeline(spec))
    assert [job.training.max_steps for job in found.values()] == [50, 100, 100]
    assert [job.scale.workers for job in found.values()] == [1, 1, 2]
    assert {job.seed for job in found.values()} == {7}
    assert [job.recipe.type for job in found.values()] == ["tap_pretrain", *["tap_caption"] * 2]
    assert found["third"].name == "three-third"


def test_runs_of_all_stages_lie_together(spec, tmp_path):
    pipeline = load_pipeline(spec, ["storage=there", "project=mine"])
    places = {(job.storage, job.project) for job in jobs(pipeline).values()}
    assert places == {(pipeline.storage, "mine")} == {(str(tmp_path / "there"), "mine")}
    assert load_pipeline(spec).storage == str(tmp_path / "runs")


def test_overrides_are_of_one_stage_or_of_all(spec):
    pipeline = load_pipeline(
        spec,
        ["all.seed=1", "second.seed=2", "all.tracking.tracker=none", "measured.evaluate.images=9"],
    )
    assert [job.seed for job in jobs(pipeline).values()] == [1, 2, 1]
    assert {job.tracking.tracker for job in jobs(pipeline).values()} == {"none"}
    assert pipeline.tracking.tracker == "none"
    assert pipeline.stages[2].evaluate.images == 9


def test_words_mean_earlier_stages(spec):
    pipeline = load_pipeline(spec)
    sources = {stage.name: pipeline.source_of(stage) for stage in pipeline.stages}
    names = {name: source and source.name for name, source in sources.items()}
    assert names == {"first": None, "second": "first", "measured": "second", "third": "first"}


def test_a_file_named_like_a_word_is_not_meant(spec, tmp_path):
    (tmp_path / "previous").write_text("")
    (tmp_path / "weights.pkl").write_text("")
    found = jobs(load_pipeline(spec, ["third.init_from=weights.pkl"]))
    assert found["second"].init_from.source == "previous"
    assert found["third"].init_from.source == str(tmp_path / "weights.pkl")


def test_a_resolved_pipeline_is_read_back_the_same(spec):
    pipeline = load_pipeline(spec)
    again = PipelineConfig.model_validate(json.loads(json.dumps(pipeline.model_dump(mode="json"))))
    assert again == pipeline
    assert again.identity == pipeline.identity
    assert load_pipeline(spec, ["first.seed=8"]).identity != pipeline.identity


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("first.init_from=previous", "stage first: init_from: previous: no stage before it trains"),
        (
            "second.init_from=stage:frist",
            "stage:frist: no stage of that name trains before it; did",
        ),
        ("second.init_from=stage:third", "stage:third: no stage of that name trains before it"),
        ("third.init_from=stage:measured", "no stage of that name trains before it; there are: fi"),
        ("measured.evaluate.run=some_run", "evaluate.run 'some_run' is no stage"),
        (
            "second.model.text_dim=64",
            "model.text_dim is 64 here and 128 there; write the model once",
        ),
        ("frist.seed=3", "override of 'frist', which is no stage; did you mean 'first'?"),
        ("x.seed=3", "which is no stage; there are: first, second, measured, third, all"),
        ("first=3", "override first=3: expected first.key=value"),
        ("first.optimizer.lrr=3", "stage first: unknown key 'optimizer.lrr'; did you mean 'optimi"),
        ("measured.evaluate.image=3", "stage measured: unknown key 'evaluate.image'; did you mean"),
        ("measured.seed=3", "stage measured: unknown key 'seed'"),
        ("second.storage=x", "stage second: 'storage' goes beside `stages`"),
        ("third.recipe.train=half", "stage third: recipe.train: input should be"),
        ("name=Three", "name: string should match pattern"),
    ],
)
def test_mistakes_are_told_in_words(spec, override, told):
    assert told in refused(spec, override)


def test_the_mistakes_of_all_stages_are_told_at_once(spec):
    told = refused(spec, "first.seed=-1", "third.training.max_stepz=3").splitlines()
    assert [line.split(": ")[1] for line in told] == ["stage first", "stage third"]


def test_weights_of_another_size_are_let_through_where_some_start_anew(spec):
    start = "second.init_from={source: previous, skip: [text_decoder.]}"
    assert load_pipeline(spec, ["second.model.text_dim=64", start, "measured.evaluate.images=1"])


def test_another_image_size_keeps_the_weights(spec):
    bigger = load_pipeline(spec, ["second.model.image_size=384"])
    assert jobs(bigger)["second"].model.image_size == 384


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda tree: tree.pop("stages"), "has no `stages`: a job is trained with tap train"),
        (lambda tree: tree.update(stages=[]), "stages: tuple should have at least 1 item"),
        (lambda tree: tree.update(model={}), "'model' is of a job: it goes in `base`, or in a st"),
        (lambda tree: tree.update(stage=[]), "unknown key 'stage'; did you mean 'stages'?"),
        (lambda tree: tree["stages"][1].pop("name"), "stage 2: 'name' is missing"),
        (lambda tree: tree["stages"][1].update(name="first"), "two stages are named 'first'"),
        (lambda tree: tree["stages"][1].update(name="all"), "no stage may be named 'all'"),
        (lambda tree: tree["stages"][1].update(name="A b"), "should match pattern"),
        (lambda tree: tree["stages"][1].update(extends=["x"]), "takes the path of one YAML file"),
        (lambda tree: tree["base"].update(extends="no.yaml"), "no.yaml: cannot be read"),
        (lambda tree: tree["base"].update(project="x"), "'project' goes beside `stages`"),
        (lambda tree: tree.update(stages=tree["stages"][2:]), "no stage before it trains anything"),
    ],
)
def test_broken_files_are_told_in_words(spec, made, told):
    assert told in refused(change(spec, made))


def test_a_pipeline_is_told_from_a_job(spec):
    assert is_pipeline(spec)
    assert not is_pipeline(spec.with_name("below.yaml"))


def test_suites_are_those_of_the_evaluation():
    choices = EvaluateConfig.model_json_schema()["properties"]["suite"]["enum"]
    assert choices == [*SUITE_NAMES, "all"]


@pytest.fixture(scope="module")
def schema():
    jsonschema.Draft202012Validator.check_schema(pipeline_schema())
    return jsonschema.Draft202012Validator(pipeline_schema())


def test_files_fit_the_schema(schema):
    schema.validate(yaml.safe_load(PIPELINE))
    shipped = Path(__file__).resolve().parents[2] / "jobs/scenes_pipeline.yaml"
    schema.validate(yaml.safe_load(shipped.read_text()))


@pytest.mark.parametrize(
    "made",
    [
        lambda tree: tree.update(model={}),
        lambda tree: tree["base"].update(mdel={}),
        lambda tree: tree["stages"][0].update(optimiser={}),
        lambda tree: tree["stages"][0].update(storage="x"),
        lambda tree: tree["stages"][0].pop("name"),
        lambda tree: tree["stages"][2].update(training={}),
        lambda tree: tree["stages"][2]["evaluate"].update(image=3),
    ],
)
def test_mistakes_do_not_fit_the_schema(schema, made):
    tree = yaml.safe_load(PIPELINE)
    made(tree)
    assert not schema.is_valid(tree)
