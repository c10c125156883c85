"""What `tap` says of pipelines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tap_platform.cli import tap

JOBS = Path(__file__).resolve().parents[2] / "jobs"
JOB, PIPELINE = str(JOBS / "tap_tiny_scenes.yaml"), str(JOBS / "scenes_pipeline.yaml")
LOOKING = """
import sys
from tap_platform.cli import tap
tap.main({arguments}, standalone_mode=False)
print([name for name in ("torch", "ray", "lightning", "mlflow") if name in sys.modules])
"""


def call(*arguments):
    return CliRunner().invoke(tap, arguments)


@pytest.mark.parametrize(
    "arguments", [["plan", PIPELINE], ["schema", "--pipeline"], ["run", "--help"]]
)
def test_looking_imports_nothing_heavy(arguments):
    command = [sys.executable, "-c", LOOKING.format(arguments=arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_plan_is_one_row_a_stage():
    outcome = call("plan", PIPELINE, "partial.training.max_steps=77")
    assert outcome.exit_code == 0
    assert all(name in outcome.output for name in ("pretrain", "partial", "full", "evaluate"))
    assert "77" in outcome.output
    plan = json.loads(call("plan", PIPELINE, "--json").output)
    assert [stage["name"] for stage in plan["stages"]] == [
        "pretrain",
        "partial",
        "full",
        "evaluate",
    ]
    assert plan["stages"][1]["plan"]["trained_parts"] == ["text_decoder"]


def test_the_schema_is_that_of_a_pipeline():
    assert "stages" in json.loads(call("schema", "--pipeline").output)["properties"]
    assert "stages" not in json.loads(call("schema").output)["properties"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", PIPELINE], f"{PIPELINE} is a pipeline of several jobs: tap run {PIPELINE}"),
        (["run"], "name a pipeline, such as jobs/scenes_pipeline.yaml"),
        (["run", PIPELINE, "--resume", "x"], "--resume takes the pipeline from the run; leave out"),
    ],
)
def test_mistakes_are_told_in_words(arguments, told):
    outcome = call(*arguments)
    assert outcome.exit_code == 2
    assert told in outcome.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", JOB], "has no `stages`: a job is trained with tap train"),
        (["run", PIPELINE, "pretain.seed=1"], "did you mean 'pretrain'?"),
        (["run", "--resume", "nothing"], "there is no run 'nothing' in runs"),
    ],
)
def test_what_is_wrong_with_a_pipeline_is_told(arguments, told):
    assert told in str(call(*arguments).exception)
