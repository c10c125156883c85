from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from tap_platform.config.job import JobConfig
from tap_platform.config.load import load_job
from tap_platform.config.load_pipeline import is_pipeline
from tap_platform.config.schema import job_schema, sweep_schema
from tap_platform.config.sweep import load_sweep

ROOT = Path(__file__).resolve().parents[2]
JOBS = [path for path in sorted((ROOT / "jobs").glob("*.yaml")) if not is_pipeline(path)]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def validator_of(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def job():
    return validator_of(job_schema())


@pytest.fixture(scope="module")
def sweep():
    return validator_of(sweep_schema())


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_file_fits_the_schema(job, path):
    job.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_resolved_job_fits_the_schema(job, path):
    job.validate(load_job(path).model_dump(mode="json"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_fits_the_schema(sweep, path):
    sweep.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_resolved_sweep_fits_the_schema(sweep, path):
    resolved = load_sweep(path).model_dump(mode="json", by_alias=True, exclude_none=True)
    sweep.validate(resolved)


@pytest.mark.parametrize(
    "tree",
    [
        {"optimiser": {}},
        {"optimizer": {"lrr": 1}},
        {"optimizer": {"lr": -1}},
        {"model": {"preset": "vitb"}},
        {"data": {"source": "scene"}},
        {"data": {"source": "scenes", "shards": "x"}},
        {"extends": 3},
    ],
)
def test_mistakes_do_not_fit(job, sweep, tree):
    assert not job.is_valid(tree)
    assert not sweep.is_valid({"base": tree})


@pytest.mark.parametrize(
    "tree",
    [
        {"bases": {}},
        {"space": {"optimizer.lr": {"uniform": [1]}}},
        {"space": {"optimizer.lr": {"loguniform": [1, 2]}}},
        {"scheduler": {"type": "hyperband"}},
        {"scheduler": {"type": "asha", "grace": 3}},
        {"objective": {"metric": "loss"}},
        {"budget": {"trials": 0}},
    ],
)
def test_mistakes_of_sweeps_do_not_fit(sweep, tree):
    assert not sweep.is_valid(tree)


def test_the_schemas_carry_the_help_and_leave_the_config_alone():
    lr = job_schema()["$defs"]["OptimizerConfig"]["properties"]["lr"]
    assert lr["description"] == "Peak learning rate (paper: 1e-3)."
    assert sweep_schema()["$defs"]["OptimizerConfig"]["properties"]["lr"] == lr
    assert "trials" in sweep_schema()["$defs"]["SweepBudget"]["properties"]
    assert "extends" not in JobConfig.model_json_schema()["properties"]
    assert job_schema() == job_schema()
