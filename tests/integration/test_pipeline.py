"""A pipeline through the whole stack: unbroken, and killed as a whole in its second stage."""

from __future__ import annotations

import pytest
import torch
import yaml
from whole_runs import kill_whole, losses, starts, tap, wait_until

from tap_platform.launch.pipeline import resume_pipeline, start_pipeline
from tap_platform.launch.stages import stage_run
from tap_platform.launch.train import resume_run
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_json
from tap_platform.runs.status import read_status, update_status
from tap_platform.training.base_weights import whole_weights

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(600),
    pytest.mark.long,
]

STEPS = {"pretrain": 4, "partial": 40, "full": 4}
CAPTIONS = {"type": "tap_caption"}


@pytest.fixture(scope="module")
def spec(make_job, tmp_path_factory):
    """The file of a pipeline whose stages take few steps, each with dropout."""
    made = make_job("base", checkpoint={"every_steps": 10}, training={"max_steps": 4})
    base = made.model_dump(mode="json")
    storage = base["storage"]
    for key in ("name", "project", "storage", "recipe", "init_from"):
        del base[key]
    stages = [
        {"name": "pretrain"},
        {
            "name": "partial",
            "recipe": {**CAPTIONS, "tokenizer": "trained"},
            "init_from": "previous",
            "training": {"max_steps": STEPS["partial"]},
        },
        {
            "name": "full",
            "recipe": {**CAPTIONS, "train": "all"},
            "init_from": "previous",
            "evaluation": {"final_images": 4, "pictures": 2},
        },
        {"name": "measure", "evaluate": {"suite": "prompts", "images": 2, "workers": 0}},
    ]
    path = tmp_path_factory.mktemp("specs") / "pipeline.yaml"
    tree = {"name": "unbroken", "storage": storage, "base": base, "stages": stages}
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def unbroken(spec):
    return start_pipeline(spec)


def runs_of(parent):
    return {name: stage_run(parent, name) for name in STEPS}


def end_of(run, step):
    return whole_weights(run.checkpoints / f"step-{step}")


def test_each_stage_goes_on_from_the_weights_of_the_one_before(unbroken):
    runs = runs_of(unbroken)
    assert {name: max(losses(run)) for name, run in runs.items()} == STEPS
    ends = {name: end_of(run, STEPS[name]) for name, run in runs.items()}
    frozen = next(name for name in ends["full"] if name.startswith("image_encoder."))
    assert torch.equal(ends["partial"][frozen], ends["pretrain"][frozen])
    bases = [read_json(run.initial_weights)["origin"] for run in list(runs.values())[1:]]
    assert bases == [f"run {runs['pretrain'].name}, step 4", f"run {runs['partial'].name}, step 40"]
    assert (unbroken.report / "measure" / "report.json").exists()
    assert "| full | 4 |" in (unbroken.report / "summary.md").read_text()


def test_a_pipeline_killed_as_a_whole_goes_on_from_stage_and_step(spec, unbroken):
    changes = ["name=killed", "all.tracking.tracker=mlflow", "all.tracking.interval=0.2"]
    driver = tap("run", spec, *changes)
    parent = parent_named("killed", unbroken.storage)
    partial = stage_run(parent, "partial")
    kill_whole(driver, partial, step=12, seconds=240)
    assert [read_status(run.status).state for run in (parent, partial)] == ["interrupted"] * 2

    resumed = tap("run", "--resume", parent.path)
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    assert "stage pretrain has finished already" in output
    runs = runs_of(parent)
    assert [run.attempt for run in runs.values()] == [1, 2, 1]
    assert starts(partial)[0] is None
    assert starts(partial)[1] in ("step-10", "step-20", "step-30")
    for name, whole in runs_of(unbroken).items():
        assert losses(runs[name]) == losses(whole), name
    assert read_status(parent.status).state == "finished"
    assert_one_tracked_family(parent, runs)


def parent_named(name, storage):
    def found():
        return [r for r in RunDirectory.all(storage) if r.name.startswith(name) and is_parent(r)]

    wait_until(found, f"a pipeline {name}")
    return found()[0]


def is_parent(run):
    return run.pipeline.exists()


def assert_one_tracked_family(parent, runs):
    """MLflow shows the parent once, with each stage once below it, all of them to their ends."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{parent.storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(parent.project)
    shown = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    above = shown[parent.name]
    names = {run.name for run in runs.values()}
    below = {n for n, run in shown.items() if parent_id(run) == above.info.run_id}
    assert below == names
    assert {shown[name].info.status for name in (parent.name, *names)} == {"FINISHED"}
    curve = client.get_metric_history(shown[runs["partial"].name].info.run_id, "train/loss")
    assert {point.step: point.value for point in curve} == losses(runs["partial"])
    files = {file.path for file in client.list_artifacts(above.info.run_id)}
    assert {"pipeline.json", "report"} <= files


def parent_id(run):
    return run.data.tags.get("mlflow.parentRunId")


def test_a_final_evaluation_that_was_cut_is_done_again(unbroken):
    run = stage_run(unbroken, "full")
    before = losses(run)
    (run.report / "scores.json").unlink()
    for each in (unbroken, run):
        update_status(each.status, state="interrupted")
    resume_pipeline(str(unbroken.path))
    assert (run.report / "scores.json").exists()
    assert starts(run) == [None, "step-4"]
    assert losses(run) == before
    assert stage_run(unbroken, "pretrain").attempt == 1


def test_a_parent_is_not_trained(unbroken):
    with pytest.raises(ValueError, match="is a pipeline; it goes on with: tap run --resume"):
        resume_run(str(unbroken.path))
