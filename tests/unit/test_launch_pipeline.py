"""How a pipeline is driven, with workers that leave a checkpoint behind in place of training."""

from __future__ import annotations

import dataclasses
import io
from contextlib import nullcontext

import pytest
import torch
import yaml
from data_samples import box_mask, region, sample
from rich.console import Console
from saved_weights import save_weights
from small_runs import small_job

from datamodules.shards.writer import ShardWriter
from datamodules.vocabulary import Vocabulary
from tap_platform.config.load_pipeline import load_pipeline
from tap_platform.launch import pipeline as launch
from tap_platform.launch import train
from tap_platform.launch.errors import RunFailedError, RunStoppedError
from tap_platform.launch.pipeline import read_pipeline, resume_pipeline, start_pipeline
from tap_platform.launch.pipeline_plan import make_pipeline_plan, print_pipeline_plan
from tap_platform.launch.stages import recorded, stage_run
from tap_platform.launch.weights_source import load_run
from tap_platform.models import Tap
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.files import read_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.status import read_status, update_status

COLOURS = ("red", "green", "blue", "yellow")
THINGS = ("circle", "square", "star", "ring")
STAGES = ["pretrain", "partial", "measure", "full"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        with ShardWriter(folder / split, 4) as writer:
            for number, colour in enumerate(COLOURS):
                phrases = [f"a {colour} {thing}" for thing in THINGS]
                made = region(box_mask(48, 64, 4, 6, 30, 40), "cat", phrases=phrases)
                writer.write(dataclasses.replace(sample(f"{number}", [made]), priors=None))
    Vocabulary.from_names(("cat", "dog"), 64, kind="test").save(folder / "vocabulary.safetensors")
    return folder


@pytest.fixture
def tree(data, tmp_path):
    """A pipeline of every kind of stage, as a file says it."""
    base = small_job(
        data,
        model={"vocab_size": 40},
        tracking={"tracker": "none"},
        evaluation={"final_images": 0},
    ).model_dump(mode="json")
    captions = {"type": "tap_caption", "tokenizer": "trained"}
    for key in ("name", "project", "storage", "recipe", "init_from"):
        del base[key]
    return {
        "name": "small",
        "storage": str(tmp_path / "runs"),
        "base": base,
        "stages": [
            {"name": "pretrain"},
            {"name": "partial", "recipe": captions, "init_from": "previous"},
            {"name": "measure", "evaluate": {"suite": "prompts", "images": 1, "workers": 0}},
            {
                "name": "full",
                "recipe": {**captions, "train": "all", "tokenizer": None},
                "init_from": {"source": "stage:partial"},
            },
        ],
    }


@pytest.fixture
def start(tree, tmp_path):
    def begin(*overrides):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(tree))
        return start_pipeline(path, overrides)

    return begin


@pytest.fixture
def trained(monkeypatch):
    """The runs that workers were started for, in order; Ray is not asked for."""
    runs = []

    def run_workers(job, run, attempt, console):
        runs.append(run.name.rpartition("-")[2])
        torch.manual_seed(len(runs))
        state = Tap(job.model).state_dict()
        kept = {n: t for n, t in state.items() if n.startswith(job.recipe.trained_parts)}
        saved = state if len(job.recipe.trained_parts) > 1 else kept
        save_weights(run, job.training.max_steps, saved)
        MetricsWriter(run.metrics, attempt).write(job.training.max_steps, {"box_iou": 0.5}, "final")

    monkeypatch.setattr(train, "run_workers", run_workers)
    monkeypatch.setattr(launch, "_ray_for", lambda pipeline: nullcontext())
    return runs


def failing(monkeypatch, stage, error):
    """Let the workers of a stage fail."""
    work = train.run_workers

    def run_workers(job, run, attempt, console):
        if run.name.endswith(stage):
            raise error
        work(job, run, attempt, console)

    monkeypatch.setattr(train, "run_workers", run_workers)


def parent_of(storage):
    (parent,) = [run for run in RunDirectory.all(storage) if run.pipeline.exists()]
    return parent


def kinds(parent):
    shown = {"stage_started": "+", "stage_finished": "-", "stage_failed": "!"}
    return [
        shown[event["kind"]] + event["stage"]
        for event in read_events(parent.events)
        if event["kind"] in shown
    ]


def test_every_stage_is_an_ordinary_run_that_starts_from_an_earlier_one(start, trained, capsys):
    parent = start()
    assert trained == ["pretrain", "partial", "full"]
    runs = {name: stage_run(parent, name) for name in trained}
    assert {read_status(run.status).parent for run in runs.values()} == {parent.name}
    assert {read_status(run.status).state for run in (parent, *runs.values())} == {"finished"}
    sources = [read_json(run.config)["init_from"] for run in runs.values()]
    assert sources[0] is None
    assert [each["source"] for each in sources[1:]] == [
        str(runs["pretrain"].path),
        str(runs["partial"].path),
    ]
    words = [load_run(run.path).model.text_decoder.state_dict() for run in runs.values()]
    assert not torch.equal(next(iter(words[0].values())), next(iter(words[1].values())))
    assert runs["full"].tokenizer.read_bytes() == runs["partial"].tokenizer.read_bytes()
    assert kinds(parent) == [mark + name for name in STAGES for mark in "+-"]
    assert (read_status(parent.status).step, read_status(parent.status).max_steps) == (4, 4)
    summary = (parent.report / "summary.md").read_text()
    assert f"| full | 4 | 0.0 | IoU by box 50.0 | {runs['full'].name} |" in summary
    assert "| measure |" in summary
    assert "prompts 1 point" in summary
    assert "measure" in capsys.readouterr().out


def test_a_pipeline_goes_on_from_the_stage_that_failed(start, trained, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        failing(broken, "partial", RunFailedError("worker 0 failed"))
        with pytest.raises(
            RunFailedError, match=r"worker 0 failed\n.*go on with: tap run --resume"
        ):
            start()
    parent = parent_of(tmp_path / "runs")
    assert read_status(parent.status).state == "failed"
    assert "worker 0" in read_status(parent.status).message
    assert kinds(parent) == ["+pretrain", "-pretrain", "+partial", "!partial"]

    resume_pipeline(parent.name, str(tmp_path / "runs"))
    assert trained == ["pretrain", "partial", "full"]
    assert stage_run(parent, "partial").attempt == 2
    assert read_status(parent.status).attempt == 2
    assert read_status(parent.status).state == "finished"

    resume_pipeline(str(parent.path))
    assert trained == ["pretrain", "partial", "full"]
    assert kinds(parent).count("+measure") == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(15)])
def test_a_pipeline_that_is_stopped_says_how_to_go_on(start, trained, tmp_path, monkeypatch, stop):
    failing(monkeypatch, "partial", stop)
    with pytest.raises(
        RunStoppedError, match=r"small-.* was stopped; go on with: tap run --resume"
    ):
        start()
    parent = parent_of(tmp_path / "runs")
    states = [read_status(run.status).state for run in (parent, stage_run(parent, "partial"))]
    assert states == ["interrupted"] * 2
    assert read_events(parent.events)[-1]["kind"] == "interrupted"


def test_a_run_that_was_killed_while_it_was_made_is_made_anew(
    tree, start, trained, tmp_path, monkeypatch
):
    tree["stages"] = tree["stages"][:2]
    with monkeypatch.context() as broken:
        failing(broken, "pretrain", KeyboardInterrupt())
        with pytest.raises(RunStoppedError):
            start()
    parent = parent_of(tmp_path / "runs")
    half = RunDirectory.create(tmp_path / "runs", "tap", stage_run(parent, "partial").name)
    (half.path / "tokenizer.model").write_text("half")
    resume_pipeline(str(parent.path))
    assert trained == ["pretrain", "partial"]


def test_a_moved_storage_is_where_later_stages_lie(tree, start, trained, tmp_path, monkeypatch):
    tree["stages"] = tree["stages"][:2]
    with monkeypatch.context() as broken:
        failing(broken, "pretrain", KeyboardInterrupt())
        with pytest.raises(RunStoppedError):
            start()
    (tmp_path / "runs").rename(tmp_path / "moved")
    parent = resume_pipeline(parent_of(tmp_path / "moved").name, str(tmp_path / "moved"))
    assert stage_run(parent, "partial").path.is_relative_to(tmp_path / "moved")
    assert not (tmp_path / "runs").exists()


def test_a_pipeline_has_one_driver(tmp_path):
    parent = RunDirectory.create(tmp_path, "tap", "parent")

    def drive():
        with recorded(parent, 4):
            pytest.fail("there are two")

    with recorded(parent, 4), pytest.raises(ValueError, match="is being trained already"):
        drive()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("full.data.path=nowhere", "stage full: .*nowhere"),
        ("full.training.global_batch=64", "stage full: "),
        ("full.init_from=gone.pkl", "stage full: init_from .*gone.pkl: there is no such file"),
        ("partial.recipe.tokenizer=gone.model", "stage partial: .*gone.model"),
        ("all.model.vocab_size=500", "stage partial: .* pieces at most, not 500"),
        ("full.recipe.tokenizer=shipped", "stage full: .*32000"),
        ("measure.evaluate.data=gone.json", "stage measure: .*gone.json"),
    ],
)
def test_a_mistake_in_a_late_stage_is_found_before_the_first(
    start, trained, tmp_path, override, told
):
    with pytest.raises(ValueError, match=told):
        start(override)
    assert trained == []
    assert list(RunDirectory.all(tmp_path / "runs")) == []


def test_a_run_of_a_job_is_no_pipeline(tmp_path):
    run = RunDirectory.create(tmp_path, "tap", "plain")
    with pytest.raises(ValueError, match=r"plain is no pipeline; .* tap train --resume /"):
        read_pipeline(run)


def test_a_stage_tells_its_parent_as_long_as_it_is_there(tmp_path):
    parent, run = (RunDirectory.create(tmp_path, "tap", name) for name in ("whole", "whole-one"))
    assert run.parent is None
    update_status(run.status, parent="whole")
    assert run.parent == parent
    parent.status.unlink()
    assert run.parent is None


def test_a_plan_tells_what_each_stage_trains(tree, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(tree))
    plan = make_pipeline_plan(load_pipeline(path, ["full.training.max_steps=8"]))
    assert [stage.starts_from for stage in plan.stages] == [None, "pretrain", "partial", "partial"]
    assert [stage.plan and len(stage.plan.trained_parts) for stage in plan.stages] == [
        3,
        1,
        None,
        4,
    ]
    text = io.StringIO()
    print_pipeline_plan(plan, Console(file=text, width=100))
    assert "random weights" in text.getvalue()
    assert ": 8" in text.getvalue()
